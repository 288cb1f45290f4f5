"""`responseTracking`: what is known of responses, and what is said to them, by how much is looked at."""

from typing import Any

import pytest

from picker._core.engine import Engine
from tests.support import messages
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    MODES,
    MS,
    NONE,
    SSE,
    STREAMED,
    assert_idle,
    engine_with,
    failures,
    only_series,
)
from tests.support.gateway import Gateway


def tracked(tracking: str) -> Engine:
    engine = engine_with(1)
    engine.set_policy([(32, 1.0, (), 0)], response_tracking=tracking)
    return engine


def answered(engine: Engine, mode: int, *, obeys: bool = True, status: int = 200, ending: str = "empty") -> Gateway:
    """An exchange of which the headers take 10 ms and the body 90; `obeys`: the gateway takes a mode override."""
    gateway = Gateway(engine, modes=(DUPLEX, mode), now_ns=0)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.now_ns = 10 * MS
    gateway.answer_headers(status)
    if gateway.override is None or not obeys:
        gateway.now_ns = 100 * MS
        gateway.answer_body(SSE, ending=ending)
    gateway.complete()
    gateway.close()
    assert_idle(engine)
    return gateway


def count(series: dict[str, Any], name: str) -> int:
    return int(series[name][0][-1][1])


# --- headers ---


@pytest.mark.parametrize("mode", MODES)
def test_the_gateway_is_asked_to_keep_the_body_to_itself(mode: int) -> None:
    override = answered(tracked("headers"), mode).override
    if mode in (DUPLEX, NONE):
        assert override is None
        return
    assert (override.request_body_mode, override.response_body_mode) == (DUPLEX, NONE)
    assert override.response_trailer_mode == messages.Mode.SKIP
    assert {field.name for field, _ in override.ListFields()} == {"request_body_mode", "response_trailer_mode"}


@pytest.mark.parametrize("mode", [DUPLEX, STREAMED, BUFFERED])
@pytest.mark.parametrize("ending", ["empty", "chunk", "trailers"])
def test_a_gateway_that_does_not_obey_loses_nothing(mode: int, ending: str) -> None:
    engine = tracked("headers")
    answered(engine, mode, obeys=False, ending=ending)
    assert failures(engine) == {}


def test_without_a_body_nothing_is_asked() -> None:
    gateway = Gateway(tracked("headers"), modes=(DUPLEX, STREAMED))
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.answer_headers(204, end=True)
    assert gateway.override is None


@pytest.mark.parametrize("mode", [DUPLEX, STREAMED, BUFFERED])
def test_headers_tell_status_and_time(mode: int) -> None:
    engine = tracked("headers")
    answered(engine, mode)
    series = only_series(engine)
    assert (series["failures"], series["statuses"]) == ({}, {"2xx": 1})
    assert series["ttft_s"][1] == pytest.approx(0.01)
    for name in ("input_tokens", "output_tokens", "cached_tokens", "tpot_s", "ntpot_s", "itl_s"):
        assert count(series, name) == 0
    ended = mode == DUPLEX  # where it is seen
    assert (count(series, "duration_s"), count(series, "response_bytes")) == (ended, ended)
    assert series["duration_s"][1] == pytest.approx(0.1 * ended)


def test_the_time_of_headers_teaches_nothing() -> None:
    """A stream's headers may come before its prompt is read."""
    for tracking, mode in (("headers", DUPLEX), ("full", NONE)):
        engine = tracked(tracking)
        answered(engine, mode)
        assert engine.decisions()[0]["ttft_s"] is None
    engine = tracked("full")
    answered(engine, DUPLEX)
    assert engine.decisions()[0]["ttft_s"] == pytest.approx(0.1)


def test_headers_tell_who_answered_and_how() -> None:
    engine = engine_with(2)
    engine.set_policy([(32, 1.0, (), 0)], response_tracking="headers")
    gateway = Gateway(engine, modes=(DUPLEX, STREAMED))
    gateway.send_headers()
    gateway.send_body([BODY])
    (other,) = {"10.0.0.1:8000", "10.0.0.2:8000"} - {gateway.destination}
    gateway.answer_headers(503, served=other)
    busy = [endpoint["target"] for endpoint in engine.endpoints(0) if endpoint["requests"]]
    gateway.close()
    assert busy == [other]
    assert failures(engine) == {"ModelServerError": 1}


def test_prefill_is_done_with_the_headers() -> None:
    engine = tracked("headers")
    gateway = Gateway(engine, modes=(DUPLEX, STREAMED))
    gateway.send_headers()
    gateway.send_body([BODY])
    assert engine.endpoints(0)[0]["prefill_tokens"] > 0
    gateway.answer_headers()
    (endpoint,) = engine.endpoints(0)
    assert (endpoint["prefill_tokens"], endpoint["requests"]) == (0, 1)
    gateway.close()


# --- off ---


def test_off_says_nothing_of_responses() -> None:
    engine = tracked("off")
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    assert gateway.session.is_over
    gateway.close()
    series = only_series(engine)
    assert (series["failures"], series["statuses"], count(series, "ttft_s")) == ({}, {}, 0)


def test_what_tracking_can_be() -> None:
    with pytest.raises(ValueError, match="one of full, headers, off, not 'some'"):
        engine_with().set_policy([(32, 1.0, (), 0)], response_tracking="some")
