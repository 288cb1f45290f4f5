"""Python steps of a policy: what they are asked, what their answers do, and what happens while they think."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from picker._core import codec
from picker._core.engine import Engine
from picker._core.session import STATE_WAITING, Session
from tests.support import messages
from tests.support.exchange import BODY, SSE, assert_idle, engine_with, failures, whole_exchange
from tests.support.gateway import DUPLEX, Gateway
from tests.support.leaks import assert_flat

FILTER, SCORER, PICKER = (3, 1.0, (), 0), (20, 2.0, (), 0), (33, 1.0, (), 0)
MAX = (30, 1.0, (), 0)
Host = Callable[[int, dict[str, Any], list[dict[str, Any]]], Any]


def ask(engine: Engine) -> Gateway:
    gateway = Gateway(engine)
    gateway.send_headers(headers={"x-mine": "1"})
    gateway.send_body([BODY])
    gateway.close()
    return gateway


def asked(steps: Sequence[Any], host: Host, endpoints: int = 3, wanted: int = 1) -> tuple[Gateway, Engine]:
    engine = engine_with(endpoints)
    engine.set_policy(steps, plugins=host, wanted=wanted)
    gateway = ask(engine)
    assert_idle(engine)
    return gateway, engine


def test_what_a_plugin_is_asked() -> None:
    seen: list[Any] = []
    asked([(13, 1.0, (0.0, 1.0), 0), SCORER, MAX], lambda *call: seen.append(call))
    ((step, request, endpoints),) = seen
    assert step == 1
    assert request["pick"] > 0
    assert request["model"] == b"llama"
    assert request["prompt_tokens"] == 152
    assert (b"x-mine", b"1") in codec.header_pairs(request["headers"])
    assert [one["target"] for one in endpoints] == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]
    assert [one["slot"] for one in endpoints] == [0, 1, 2]
    assert all(one["cached_tokens"] == 0 and one["total"] == 0.0 for one in endpoints)


def test_a_plugin_sees_cached_tokens_and_totals() -> None:
    seen: list[Any] = []
    engine = engine_with(1)
    engine.set_policy([(13, 0.5, (0.0, 1.0), 0), SCORER, MAX], plugins=lambda *call: seen.append(call))
    ask(engine)
    ask(engine)
    assert [call[2][0]["cached_tokens"] for call in seen] == [0, 128]
    assert seen[1][2][0]["total"] == pytest.approx(0.5 * 128 / 152)


def test_requests_without_a_body_have_plugins_too() -> None:
    seen: list[Any] = []
    engine = engine_with(1)
    engine.set_policy([FILTER, MAX], plugins=lambda *call: seen.append(call))
    Gateway(engine).send_headers("/v1/models", end=True)
    assert seen[0][1]["model"] == b"" and seen[0][1]["prompt_tokens"] == 0


def test_a_filter_keeps_slots() -> None:
    gateway, engine = asked([FILTER, MAX], lambda step, request, endpoints: [1])
    assert gateway.destination == "10.0.0.2:8000"
    assert engine.decisions()[0]["candidates"] == 1


def test_a_scorer_scores() -> None:
    gateway, engine = asked([SCORER, MAX], lambda step, request, endpoints: [0.25, -5, float("nan")])
    assert gateway.destination == "10.0.0.1:8000"
    (decision,) = engine.decisions()
    assert (decision["total"], decision["runner_up"], decision["scores"]) == (0.5, 0.0, [0.25, 0.0])


def test_a_picker_picks() -> None:
    gateway, _ = asked([SCORER, PICKER], lambda step, *_: [1, 0, 0] if step == 0 else [2, 0], wanted=2)
    assert gateway.destination == "10.0.0.3:8000,10.0.0.1:8000"


def test_a_filter_that_keeps_nobody_is_a_503() -> None:
    for steps in ([FILTER, MAX], [PICKER]):
        gateway, engine = asked(steps, lambda *_: [])
        assert gateway.immediate.status.code == 503
        assert failures(engine) == {"ServiceUnavailable": 1}


@pytest.mark.parametrize("answer", [None, [1.0], [0, 0], [9], ["x", "y", "z"], 5, [None] * 3, [[]] * 3, "abc"])
def test_a_plugin_without_a_proper_answer_is_skipped(answer: Any) -> None:
    for step in (FILTER, SCORER):
        if step is FILTER and answer == [1.0]:
            continue  # a slot
        gateway, engine = asked([step, MAX], lambda *_: answer)
        assert gateway.destination
        assert engine.decisions()[0]["candidates"] == 3
    scores = [(13, 1.0, (0.0, 1.0), 0), PICKER]
    if answer != [1.0]:
        gateway, engine = asked(scores, lambda *_: answer)
        assert gateway.destination


def test_plugins_without_a_host_are_skipped() -> None:
    engine = engine_with(3)
    engine.set_policy([FILTER, SCORER, PICKER])
    assert ask(engine).destination


def test_what_a_host_raises_comes_out() -> None:
    def host(*_: object) -> None:
        raise RuntimeError("a bug")

    engine = engine_with(1)
    engine.set_policy([SCORER, MAX], plugins=host)
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    with pytest.raises(RuntimeError, match="a bug"):
        stream.feed(messages.request_body(BODY), 0)
    assert stream.state == STATE_WAITING
    (reply,) = stream.refuse(8)
    assert messages.parse(reply).immediate_response.status.code == 500
    stream.close(0)
    assert_idle(engine)
    engine.set_policy([MAX])
    whole_exchange(engine)  # the lock is free


# --- while a plugin thinks ---


def test_endpoints_go_while_a_plugin_thinks() -> None:
    """The pick starts anew with those that are left."""
    calls: list[int] = []

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[float]:
        calls.append(len(endpoints))
        if len(endpoints) == 3:
            engine.remove_endpoint(endpoints[0]["slot"], endpoints[0]["generation"])
            return [1.0, 0.0, 0.0]
        return [1.0, 0.0]

    engine = engine_with(3)
    engine.set_policy([SCORER, MAX], plugins=host)
    assert ask(engine).destination == "10.0.0.2:8000"
    assert calls == [3, 2]
    assert_idle(engine)


def test_an_endpoint_replaced_while_a_plugin_thinks() -> None:
    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[int]:
        if endpoints[0]["generation"] == 1:
            engine.remove_endpoint(0, 1)
            engine.add_endpoint("10.0.0.7:8000", "10.0.0.7")
        return [0]

    engine = engine_with(1)
    engine.set_policy([PICKER], plugins=host)
    assert ask(engine).destination == "10.0.0.7:8000"


def test_all_endpoints_go_while_a_plugin_thinks() -> None:
    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> None:
        for one in endpoints:
            engine.remove_endpoint(one["slot"], one["generation"])

    engine = engine_with(3)
    engine.set_policy([SCORER, MAX], plugins=host)
    assert ask(engine).immediate.status.code == 503


def test_many_endpoints_come_while_a_plugin_thinks() -> None:
    """What the pick points to moves."""

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[float]:
        for number in range(200 if len(endpoints) == 1 else 0):
            engine.add_endpoint(f"10.1.0.{number}:80", f"10.1.0.{number}")
        return [float(one["target"] == "10.1.0.199:80") for one in endpoints]

    engine = engine_with(1)
    engine.set_policy([(13, 1.0, (0.0, 1.0), 0), SCORER, MAX], plugins=host)
    assert ask(engine).destination == "10.1.0.199:80"


def test_the_policy_changes_while_a_plugin_thinks() -> None:
    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[int]:
        engine.set_policy([MAX])
        return [0]

    engine = engine_with(3)
    engine.set_policy([FILTER, SCORER, PICKER], plugins=host)
    assert ask(engine).destination
    assert engine.decisions()[0]["scores"] == [0.0]


def test_another_session_is_fed_while_a_plugin_thinks() -> None:
    """Hashes of the waiting prompt are its own: the other's must not end up in the index for it."""
    other_body = BODY.replace(b"hello", b"other")
    inner: list[Gateway] = []

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[float]:
        if not inner:
            inner.append(Gateway(engine))
            inner[0].send_headers()
            inner[0].send_body([other_body])
        return [1.0] * len(endpoints)

    engine = engine_with(1)
    engine.set_policy([SCORER, MAX], plugins=host)
    ask(engine)
    inner[0].close()
    assert engine.index_blocks == 4
    for body in (BODY, other_body):
        gateway = Gateway(engine)
        gateway.send_headers()
        gateway.send_body([body])
        gateway.close()
        assert engine.decisions(1)[0]["cached_tokens"] == 128
    assert_idle(engine)


def test_a_plugin_that_always_disturbs_is_left_out() -> None:
    calls: list[int] = []

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[float]:
        calls.append(step)
        engine.remove_endpoint(*engine.add_endpoint("10.0.0.9:80", "10.0.0.9"))
        return [1.0] * len(endpoints)

    engine = engine_with(2)
    engine.set_policy([SCORER, MAX], plugins=host)
    assert ask(engine).destination
    assert len(calls) == 4


def test_the_session_ends_while_a_plugin_thinks() -> None:
    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[int]:
        stream.close(0)
        return [0]

    engine = engine_with(1)
    engine.set_policy([PICKER], plugins=host)
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    assert stream.feed(messages.request_body(BODY), 0) == []
    assert_idle(engine)
    assert engine.stats()["picked"] == 0


def test_messages_come_while_a_plugin_thinks() -> None:
    """A body that is not read passes behind its pick, whenever it came."""
    early = [messages.request_body(b"abc", end_of_stream=False), messages.request_body(b"def", end_of_stream=False)]

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> None:
        for message in early:
            assert gateway.session.feed(message, 0) == []
        assert gateway.session.feed(messages.request_trailers(), 0) == []

    engine = engine_with(1)
    engine.set_policy([SCORER, MAX], plugins=host)
    gateway = Gateway(engine)
    gateway.request.send("body", b"abcdef", False)
    gateway.request.send("trailers", b"", False)
    gateway.send_headers("/v1/files")
    gateway.complete()
    gateway.close()
    assert_idle(engine)


def test_the_gateway_answers_while_a_plugin_thinks() -> None:
    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> None:
        (reply,) = stream.feed(messages.response_headers(504), 0)
        assert messages.parse(reply).HasField("response_headers")

    engine = engine_with(1)
    engine.set_policy([SCORER, MAX], plugins=host)
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    assert stream.feed(messages.request_body(BODY), 0) == []
    stream._check()
    stream.close(0)
    assert_idle(engine)
    assert engine.stats()["picked"] == 0


def test_threads_change_the_pool_while_plugins_think() -> None:
    """The lock is never held where Python may run: neither side waits for ever."""
    stop = threading.Event()
    engine = engine_with(2)

    def churn() -> None:
        while not stop.is_set():
            slot = engine.add_endpoint("10.0.0.9:8000", "10.0.0.9")
            engine.observe(*slot, now_ns=1, waiting=1.0)
            engine.endpoints(1)
            engine.stats()
            engine.remove_endpoint(*slot)

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> list[float]:
        stop.wait(0)  # lets go of the GIL
        return [1.0] * len(endpoints)

    engine.set_policy([SCORER, MAX], plugins=host)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            gateway = Gateway(engine, modes=(DUPLEX, DUPLEX))
            gateway.send_headers()
            gateway.send_body([BODY])
            gateway.answer_headers()
            gateway.answer_body(SSE)
            gateway.complete()
            gateway.close()
    finally:
        stop.set()
        thread.join()
    assert_idle(engine)


def test_leaks_nothing() -> None:
    answers: list[Any] = [[0], None, "abc", [0.5] * 2]

    def host(step: int, request: Any, endpoints: list[dict[str, Any]]) -> Any:
        answers.append(answers.pop(0))
        return answers[-1]

    engine = engine_with(2)
    engine.set_policy([FILTER, SCORER, PICKER], plugins=host)

    def each() -> None:
        for _ in range(4):
            ask(engine)

    each()  # what an engine makes once
    assert_flat(each, calls=10)
