"""Rate limits in sessions: what a client is told, what a request is charged however it ends, waiting for a store."""

import json
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2

from picker._core.engine import Engine
from picker._core.quotas import Quota
from picker._core.score import PICK_RANDOM
from tests.core.test_quotas import INPUT, KEY, OUTPUT, REQUESTS, TOTAL, Rule, by_key
from tests.support import messages
from tests.support.exchange import BODY, BUFFERED, DUPLEX, MS, SSE, assert_idle, engine_with, error_of, failures
from tests.support.gateway import Gateway

STEPS = [(PICK_RANDOM, 1.0, (), 0)]
OWN = {"x-api-key": "sk-secret"}
USED = 153  # of SSE
ESTIMATE = 150  # input tokens picker reads out of BODY
SECOND = 1000 * MS


def limited(*rules: Rule, **more: Any) -> tuple[Engine, Quota]:
    engine, quota = engine_with(), Quota(seed=1)
    quota.set_rules(rules, **more)
    engine.set_quota(quota)
    return engine, quota


def body_of(**members: Any) -> bytes:
    return json.dumps({"model": "llama", "messages": [{"role": "user", "content": "hello " * 100}], **members}).encode()


def asked(engine: Engine, body: bytes = BODY, *, headers: dict[str, str] = OWN, **more: Any) -> Gateway:
    gateway = Gateway(engine, **more)
    gateway.send_headers(headers=headers)
    gateway.send_body([body])
    return gateway


def answered(gateway: Gateway, chunks: list[bytes] = SSE, **more: Any) -> Gateway:
    gateway.answer_headers(**more)
    gateway.answer_body(chunks)
    gateway.complete()
    gateway.close()
    return gateway


def left(engine: Engine, now_ns: int = 1) -> dict[str, str]:
    """The x-ratelimit headers of one more request, that costs as little as it can."""
    gateway = asked(engine, body_of(max_tokens=0), now_ns=now_ns)
    found = gateway.immediate.headers.set_headers if gateway.immediate else []
    told = {option.header.key: option.header.raw_value.decode() for option in found}
    if not gateway.immediate:
        gateway.answer_headers(503, end=True)
        told = gateway.response_headers
    gateway.close()
    return {name.removeprefix("x-ratelimit-"): value for name, value in told.items() if "ratelimit" in name}


@pytest.mark.parametrize("modes", [(DUPLEX, DUPLEX), (BUFFERED, BUFFERED), (BUFFERED, messages.NONE)])
def test_what_a_client_is_told(modes: tuple[int, int]) -> None:
    engine, _ = limited(by_key(("minute", 2, REQUESTS), ("hour", 10_000, TOTAL)))
    gateway = asked(engine, body_of(max_tokens=50), modes=modes, now_ns=30 * SECOND)
    gateway.now_ns += 1500 * MS
    gateway.answer_headers(headers={"x-ratelimit-limit-tokens": "of the model server"})
    told = {name: value for name, value in gateway.response_headers.items() if "ratelimit" in name}
    remaining = int(told.pop("x-ratelimit-remaining-tokens"))
    assert 9_700 < remaining < 9_850
    assert told == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "28.500s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-reset-tokens": "59m29s",
    }
    gateway.close()


@pytest.mark.parametrize(
    ("left_ms", "text"),
    [(0.5, "1ms"), (999, "999ms"), (1000, "1s"), (1001, "1.001s"), (59_999, "59.999s"), (60_000, "1m0s"),
     (60_001, "1m1s"), (3_599_500, "1h0m0s"), (86_399_000, "23h59m59s")],
)  # fmt: skip
def test_durations(left_ms: float, text: str) -> None:
    engine, _ = limited(by_key(("day", 9, REQUESTS)))
    assert left(engine, now_ns=86_400 * SECOND - int(left_ms * MS))["reset-requests"] == text


def test_a_request_over_the_limit() -> None:
    engine, quota = limited(by_key(("minute", 1, REQUESTS), ("day", 10_000, TOTAL)))
    answered(asked(engine))
    gateway = asked(engine, now_ns=18 * SECOND)
    assert error_of(gateway) == {
        "status": 429,
        "message": "Rate limit reached: by-key, 1 requests per minute. Used 1, requested 1. Please try again in 42s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    headers = {option.header.key: option.header.raw_value for option in gateway.immediate.headers.set_headers}
    assert headers["retry-after"] == b"42"
    assert headers["x-llm-d-request-dropped-reason"] == b"rejected-quota"
    assert headers["x-ratelimit-remaining-requests"] == b"0"
    assert headers["x-ratelimit-remaining-tokens"] == str(10_000 - USED).encode()
    assert b"sk-secret" not in gateway.immediate.SerializeToString()
    gateway.close()
    assert failures(engine) == {"QuotaExceeded": 1}
    assert quota.figures["holds"] == 0
    assert_idle(engine)


def test_a_request_larger_than_the_limit() -> None:
    engine, _ = limited(by_key(("minute", 200, TOTAL)))
    error = error_of(asked(engine, body_of(max_tokens=1000)))
    assert (error["status"], error["type"]) == (429, "tokens")
    assert error["message"].endswith("The request is larger than the limit.")


def test_other_keys_go_on() -> None:
    engine, _ = limited(by_key(("minute", 1, REQUESTS)))
    for key in ("a", "b", "c"):
        answered(asked(engine, headers={"x-api-key": key}))
    assert error_of(asked(engine, headers={"x-api-key": "a"}))["status"] == 429
    answered(asked(engine, headers={}))


def charged(quota: Quota) -> int:
    return int(sum(tally["input"] + tally["output"] for tally in quota.tallies()))


def test_exact_to_the_token_over_a_run() -> None:
    """Known usages: what is charged is what was used, and what goes is never beyond the limit."""
    engine, quota = limited(by_key(("minute", 2000, TOTAL)))
    went = 0
    for number in range(40):
        gateway = asked(engine, body_of(max_tokens=number % 7))
        if gateway.immediate is not None:
            gateway.close()
            continue
        remaining = int(gateway_remaining(gateway))
        usage = {"prompt_tokens": 140 + number, "completion_tokens": number % 7}
        gateway.answer_body([b'{"usage":' + json.dumps(usage).encode() + b"}"])
        gateway.close()
        went += 140 + number + number % 7
        assert remaining >= 0
    assert charged(quota) == went
    assert int(left(engine)["remaining-tokens"]) == max(2000 - went, 0)
    assert went <= 2000 + 40


def gateway_remaining(gateway: Gateway) -> str:
    gateway.answer_headers(kind="application/json")
    return gateway.response_headers["x-ratelimit-remaining-tokens"]


def close_at_once(gateway: Gateway) -> None:
    gateway.close()


def cancel_in_the_middle(gateway: Gateway) -> None:
    gateway.answer_headers()
    gateway.answer_body([b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * 3, ending="open")
    gateway.close()


def without_usage(gateway: Gateway) -> None:
    answered(gateway, [b'{"choices":[]}'], kind="application/json")


def failing(gateway: Gateway) -> None:
    answered(gateway, [b'{"error":{}}'], status=500, kind="application/json")


def with_usage(gateway: Gateway) -> None:
    answered(gateway)


@pytest.mark.parametrize(
    ("end", "input", "output"),
    [
        (with_usage, 150, 3),
        (without_usage, "estimate", 40),
        (cancel_in_the_middle, "estimate", 3),
        (close_at_once, "estimate", 0),
        (failing, 0, 0),
    ],
)
def test_what_is_charged_however_it_ends(end: Any, input: int | str, output: int) -> None:
    engine, quota = limited(by_key(("minute", 9, REQUESTS), ("minute", 5000, INPUT), ("minute", 500, OUTPUT)))
    answered(asked(engine, headers={}))  # this gateway shows responses
    probe = asked(engine, body_of(max_tokens=40, stream=True))
    end(probe)
    (tally,) = quota.tallies()
    assert tally["output"] == output
    assert tally["input"] == input if isinstance(input, int) else 100 < tally["input"] < 250
    assert left(engine)["remaining-requests"] == "7", "it went, so it counts as a request"
    assert quota.figures["holds"] == 0


@pytest.mark.parametrize(("tracking", "shown"), [("off", False), ("headers", True), ("full", False)])
def test_what_nobody_sees_costs_its_estimate(tracking: str, shown: bool) -> None:
    engine, quota = limited(by_key(("minute", 500, OUTPUT)))
    engine.set_policy(STEPS, response_tracking=tracking)
    gateway = asked(engine, body_of(max_tokens=40))
    if shown:
        gateway.answer_headers()
        gateway.answer_body(SSE)
    gateway.close()
    assert quota.tallies()[0]["output"] == 40


def test_what_picker_refuses_costs_nothing() -> None:
    engine, quota = limited(by_key(("minute", 1, REQUESTS)))
    assert error_of(asked(engine, b"{"))["status"] == 400
    empty, _ = Engine(hash_seed=1), engine
    empty.set_quota(quota)
    assert error_of(asked(empty))["status"] == 503
    asked(engine, BODY[:5], modes=(DUPLEX, DUPLEX)).close()
    answered(asked(engine))
    assert error_of(asked(engine))["status"] == 429, "engines share what is left"


@pytest.mark.parametrize(("bounds_output", "remaining"), [(True, 2000), (False, 2744)])
def test_what_is_reserved_for_an_answer(bounds_output: bool, remaining: int) -> None:
    engine, _ = limited(by_key(("minute", 3000, OUTPUT)), bounds_output=bounds_output)
    gateway = asked(engine, body_of(max_tokens=1000))
    assert gateway_remaining(gateway) == str(remaining)
    gateway = asked(engine, body_of())
    assert gateway_remaining(gateway) == str(remaining - 256)


def test_the_model_is_the_one_the_client_asks_for() -> None:
    engine, _ = limited(by_key(("minute", 0, REQUESTS), models=["llama"]))
    rewritten = {**OWN, "x-llm-d-model-name-rewrite": "other"}
    assert error_of(asked(engine, headers=rewritten))["status"] == 429
    rewritten = {**OWN, "x-llm-d-model-name-rewrite": "llama"}
    gateway = asked(engine, BODY.replace(b"llama", b"alias"), headers=rewritten)
    gateway.complete()
    gateway.close()


def test_requests_that_are_not_read_count() -> None:
    engine, quota = limited(by_key(("minute", 1, REQUESTS), ("minute", 500, TOTAL)))
    gateway = Gateway(engine)
    gateway.send_headers("/v1/models", headers=OWN, end=True)
    gateway.answer_headers(end=True)
    gateway.close()
    assert charged(quota) == 0
    assert error_of(asked(engine))["status"] == 429


def test_keys_in_claims() -> None:
    engine, quota = engine_with(), Quota(seed=1)
    source = ("claim", "envoy.filters.http.jwt_authn", ("payload", "sub"))
    quota.set_rules([{"name": "r", "source": source, "tiers": [[("minute", 1, REQUESTS)]], "default": 0}])
    engine.set_quota(quota)

    def ask(subject: str) -> Gateway:
        gateway = Gateway(engine)
        message = external_processor_pb2.ProcessingRequest.FromString(messages.request_headers())
        claims = message.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
        claims.update({"payload": {"iss": "me", "sub": subject}})
        gateway.request.send("headers", b"", False)
        gateway.take(gateway.feed(message.SerializeToString(), 1))
        gateway.send_body([BODY])
        return gateway

    for subject in ("a", "b"):
        answered(ask(subject))
    assert error_of(ask("a"))["status"] == 429


# --- with a store ---


def resumed(engine: Engine, quota: Quota, gateway: Gateway) -> Gateway:
    assert quota.wake() == 1
    assert engine.dispatch(gateway.now_ns) == [gateway.session]
    gateway.take(gateway.session.resume(gateway.now_ns))
    return gateway


def on_store(*rules: Rule, fallback: str = "local") -> tuple[Engine, Quota]:
    engine, quota = limited(*rules)
    quota.set_store(True, fallback=fallback)
    return engine, quota


@pytest.mark.parametrize("ending", ["empty", "trailers"])
def test_a_session_waits_for_the_store(ending: str) -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS), ("minute", 1000, TOTAL)))
    gateway = Gateway(engine)
    gateway.send_headers(headers=OWN)
    gateway.send_body([BODY], ending=ending)
    assert gateway.session.is_waiting and not gateway.destination
    ((ticket, charges),) = quota.asked(9)
    quota.answer(ticket, -1, [3000, 400_000], [60_000, 60_000], 0, 1)
    resumed(engine, quota, gateway)
    assert gateway.destination
    answered(gateway)
    assert gateway.response_headers["x-ratelimit-remaining-tokens"] == "600"
    assert quota.settled(9) == [(charges[1][0], 60_000, 60_000, USED * 1000 - charges[1][2])]
    assert_idle(engine)


def test_the_store_refuses() -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS)))
    gateway = asked(engine)
    ((ticket, _),) = quota.asked(9)
    quota.answer(ticket, 0, [10_000], [60_000], 57_500, 1)
    error = error_of(resumed(engine, quota, gateway))
    assert (error["status"], error["message"][-27:]) == (429, "Please try again in 2.500s.")
    gateway.close()
    assert_idle(engine)


def test_a_client_that_is_gone_before_the_answer() -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS)))
    gone, late = asked(engine), asked(engine)
    gone.close()
    ((ticket, charges),) = quota.asked(9)
    late.close()
    quota.answer(ticket, -1, [1000], [60_000], 0, 1)
    assert quota.wake() == 0
    assert quota.settled(9) == [(charges[0][0], 60_000, 60_000, -1000)]
    assert quota.figures["holds"] == 0
    assert_idle(engine)


def test_a_client_that_is_gone_between_answer_and_turn() -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS)))
    gateway = asked(engine)
    ((ticket, charges),) = quota.asked(9)
    quota.answer(ticket, -1, [1000], [60_000], 0, 1)
    assert quota.wake() == 1
    gateway.close()
    assert engine.dispatch(1) == []
    assert quota.settled(9) == [(charges[0][0], 60_000, 60_000, -1000)]
    assert_idle(engine)


def test_the_time_a_store_takes_is_no_endpoints() -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS)))
    engine.set_flow({"detector": ("adaptive",)})
    gateway = asked(engine)
    ((ticket, _),) = quota.asked(9)
    gateway.now_ns += 2 * SECOND
    quota.answer(ticket, -1, [1000], [60_000], 0, gateway.now_ns)
    resumed(engine, quota, gateway)
    assert max(one["ahead_s"] for one in engine.flow(gateway.now_ns)["credits"]) > 0.0, "its prefill begins now"
    gateway.close()
    assert_idle(engine)


@pytest.mark.parametrize(("fallback", "status"), [("local", 0), ("failOpen", 0), ("failClosed", 503)])
def test_a_store_that_is_away(fallback: str, status: int) -> None:
    engine, quota = on_store(by_key(("minute", 10, REQUESTS)), fallback=fallback)
    waiting = asked(engine)
    ((ticket, _),) = quota.asked(9)
    quota.fail(ticket)
    quota.set_store(True, is_reachable=False, fallback=fallback)
    for gateway in (resumed(engine, quota, waiting), asked(engine)):
        if status:
            error = error_of(gateway)
            assert (error["status"], error["code"]) == (503, "rate_limit_unavailable")
            gateway.close()
        else:
            answered(gateway)
    assert quota.figures["holds"] == 0
    assert_idle(engine)


def test_an_engine_keeps_its_quota() -> None:
    engine, quota = limited()
    engine.set_quota(quota)
    with pytest.raises(ValueError, match="for good"):
        engine.set_quota(Quota(seed=2))


def test_a_quota_lives_as_long_as_what_it_holds() -> None:
    engine, quota = limited(by_key(("minute", 10, REQUESTS)))
    gateway = asked(engine)
    del engine, quota
    gateway.close()


assert KEY.decode() in OWN
