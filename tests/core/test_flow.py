"""Flow control in whole sessions: who waits, who is next, who is turned away, and what they are told."""

import json
from typing import Any

import pytest

from picker._core import session
from picker._core.engine import Engine
from picker._core.session import Session
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    MS,
    PARTIAL,
    SSE,
    STREAMED,
    assert_idle,
    engine_with,
    error_of,
    failures,
)
from tests.support.gateway import Gateway
from tests.support.leaks import assert_flat, failing_allocations

S = 1_000 * MS
ONE = {"detector": ("concurrency", "requests", 1, 1e12, 0.0)}
"""Each endpoint takes one request."""
FAIR = "x-llm-d-inference-fairness-id"
OBJECTIVE = "x-llm-d-inference-objective"
OBJECTIVES = {"high": 10, "low": -10, "mid": 5}


def flowing(count: int = 1, *, rules: dict[str, Any] | None = None, **limits: int) -> Engine:
    engine = engine_with(count, **limits)
    engine.set_objectives(OBJECTIVES)
    engine.set_flow({**ONE, **(rules or {})})
    return engine


def request(engine: Engine, *, now_ns: int = 1, mode: int = DUPLEX, **headers: str) -> Gateway:
    gateway = Gateway(engine, modes=(mode, DUPLEX), now_ns=now_ns)
    said = {FAIR: headers["flow"]} if "flow" in headers else {}
    if "objective" in headers:
        said[OBJECTIVE] = headers["objective"]
    if "slo" in headers:
        said["x-llm-d-slo-ttft-ms"] = headers["slo"]
    gateway.send_headers(headers=said)
    gateway.send_body([BODY])
    return gateway


def finish(gateway: Gateway) -> None:
    gateway.answer_headers()
    gateway.answer_body(SSE)
    gateway.complete()
    gateway.close()


def turns(engine: Engine, gateways: list[Gateway], now_ns: int) -> list[Gateway]:
    """Give turns until there are none to give; those that were told, in their order."""
    by_session = {gateway.session: gateway for gateway in gateways}
    told = []
    while called := engine.dispatch(now_ns):
        for one in called:
            gateway = by_session[one]
            gateway.now_ns = now_ns
            gateway.take(one.resume(now_ns))
            told.append(gateway)
    engine._check()
    return told


def retry_after(gateway: Gateway) -> int:
    (value,) = (o.header.raw_value for o in gateway.immediate.headers.set_headers if o.header.key == "retry-after")
    return int(value)


def test_without_rules_nobody_waits() -> None:
    engine = engine_with(1)
    gateways = [request(engine) for _ in range(20)]
    assert not any(gateway.session.is_waiting for gateway in gateways)
    assert (engine.waiting, engine.is_due, engine.dispatch(1)) == (0, False, [])
    for gateway in gateways:
        finish(gateway)
    assert_idle(engine)


def test_one_waits_until_there_is_room() -> None:
    engine = flowing()
    first, second = request(engine), request(engine)
    assert first.destination and second.session.is_waiting
    assert (second.session.state, engine.waiting, engine.is_due) == (session.STATE_WAITING, 1, False)
    assert turns(engine, [second], 2) == []
    finish(first)
    assert engine.is_due
    assert turns(engine, [second], 3 * S) == [second]
    assert second.destination == "10.0.0.1:8000"
    assert engine.decisions()[0]["waited_s"] == pytest.approx(3.0, abs=1e-6)
    finish(second)
    assert_idle(engine)


def test_a_turn_spends_its_credit_at_once() -> None:
    engine = flowing(2)
    running = [request(engine), request(engine)]
    assert {gateway.destination for gateway in running} == {"10.0.0.1:8000", "10.0.0.2:8000"}
    waiting = [request(engine) for _ in range(6)]
    left = running
    for _ in range(3):
        for gateway in left:
            finish(gateway)
        left = turns(engine, waiting, 2)
        assert len({gateway.destination for gateway in left}) == 2
    assert engine.waiting == 0
    for gateway in left:
        finish(gateway)
    assert_idle(engine)


def test_higher_priorities_go_first_and_flows_take_turns() -> None:
    engine = flowing()
    first = request(engine)
    waiting = [request(engine, flow="greedy") for _ in range(3)]
    waiting += [request(engine, flow="modest"), request(engine, objective="mid"), request(engine, objective="high")]
    order = []
    running = first
    while engine.waiting:
        finish(running)
        (running,) = turns(engine, waiting, 2)
        order.append(waiting.index(running))
    finish(running)
    assert order[:2] == [5, 4] and order[2:4] in ([0, 3], [3, 0]) and order[4:] == [1, 2]
    assert_idle(engine)


def test_a_negative_priority_does_not_wait() -> None:
    engine = flowing()
    first = request(engine, objective="low")
    assert first.destination
    refused = request(engine, objective="low")
    assert error_of(refused)["code"] == "saturated" and retry_after(refused) == 1
    refused.close()
    finish(first)
    assert failures(engine) == {"Saturated": 1}
    assert_idle(engine)


def test_legacy_admission() -> None:
    engine = flowing(rules={"queues": False})
    running = [request(engine) for _ in range(5)]
    refused = request(engine, objective="low")
    assert error_of(refused)["code"] == "saturated"
    refused.close()
    for gateway in running:
        finish(gateway)
    finish(request(engine, objective="low"))
    assert_idle(engine)


@pytest.mark.parametrize("endpoints", [0, 1])
def test_time_to_live(endpoints: int) -> None:
    rules = {"default_band": ("fcfs", "tokens", 10, 0, 2.0)}
    engine = flowing(rules=rules)
    first = request(engine, now_ns=1)
    second = request(engine, now_ns=1)
    if not endpoints:
        engine.remove_endpoint(0, 1)
    assert turns(engine, [second], 2 * S) == []
    assert turns(engine, [second], 2 * S + 11 * MS) == [second]
    code, status = ("queue_timeout", 429) if endpoints else ("no_endpoint", 503)
    assert (error_of(second)["code"], error_of(second)["status"]) == (code, status)
    second.close()
    finish(first)
    assert_idle(engine)


def test_caps() -> None:
    engine = flowing(rules={"default_band": ("fcfs", "tokens", 2, 0, 60.0)})
    first = request(engine)
    waiting = [request(engine), request(engine)]
    refused = request(engine)
    assert error_of(refused)["code"] == "queue_full"
    refused.close()
    other = request(engine, objective="high")
    assert other.session.is_waiting
    other.close()
    finish(first)
    for _ in waiting:
        (gateway,) = turns(engine, waiting, 2)
        finish(gateway)
    assert failures(engine) == {"QueueFull": 1, "ContextCancelled": 1}
    assert_idle(engine)


def test_an_empty_pool_is_waited_for() -> None:
    engine = flowing(0, rules={"no_endpoint_ttl_s": 5.0})
    for objective in ("high", "low", ""):
        gateway = request(engine, now_ns=S, objective=objective)
        assert gateway.session.is_waiting
        assert turns(engine, [gateway], 5 * S) == []
        engine.add_endpoint("10.0.0.1:8000", "10.0.0.1")
        assert engine.is_due
        assert turns(engine, [gateway], 5 * S) == [gateway]
        finish(gateway)
        engine.remove_endpoint(0, engine.endpoints(0)[0]["generation"])
    gateway = request(engine, now_ns=10 * S)
    assert turns(engine, [gateway], 15 * S + 11 * MS) == [gateway]
    assert error_of(gateway)["code"] == "no_endpoint"
    gateway.close()
    assert_idle(engine)


def test_an_empty_pool_is_not_waited_for_unless_that_is_said() -> None:
    engine = flowing(0)
    gateway = request(engine)
    assert error_of(gateway)["status"] == 503
    gateway.close()
    assert_idle(engine)


def test_a_client_that_goes_leaves_the_queue() -> None:
    engine = flowing()
    first = request(engine)
    second, third = request(engine), request(engine)
    second.close()
    assert engine.waiting == 1
    finish(first)
    assert engine.dispatch(2) == [third.session]
    third.close()  # called, and gone before it could be told
    assert failures(engine) == {"ContextCancelled": 2}
    assert_idle(engine)


@pytest.mark.parametrize("called", [False, True])
def test_a_gateway_that_answers_the_client_itself_meanwhile(called: bool) -> None:
    """Its own timeout, say: Envoy sends the 504 through ext_proc, and waits for what picker says of it."""
    engine = flowing()
    first, second = request(engine), request(engine)
    if called:
        finish(first)
        assert engine.dispatch(2) == [second.session]
    (reply,) = second.session.feed(m.response_headers(504), 3)
    assert m.parse(reply).WhichOneof("response") == "response_headers"
    assert not second.session.is_waiting and second.session.resume(3) == []
    second.close()
    if not called:
        finish(first)
    assert failures(engine) == {"ContextCancelled": 1}
    assert_idle(engine)


def test_subsets_do_not_hold_each_other_up() -> None:
    engine = flowing(2)
    first = request(engine)
    mine, other = (
        first.destination,
        {"10.0.0.1:8000": "10.0.0.2:8000", "10.0.0.2:8000": "10.0.0.1:8000"}[first.destination],
    )

    def restricted(to: str) -> Gateway:
        gateway = Gateway(engine)
        gateway.send_headers(subset=[to])
        gateway.send_body([BODY])
        return gateway

    held = restricted(mine)
    free = restricted(other)
    assert held.session.is_waiting and free.destination == other
    stuck, whole = restricted(other), request(engine)
    assert turns(engine, [held, stuck, whole], 2) == []
    stuck.close()
    whole.close()
    finish(first)
    assert turns(engine, [held], 2) == [held]
    finish(held)
    finish(free)
    assert_idle(engine)


@pytest.mark.parametrize("mode", [STREAMED, PARTIAL, BUFFERED])
def test_bodies_that_come_meanwhile_are_answered_behind_the_pick(mode: int) -> None:
    engine = flowing()
    first = request(engine)
    stream = Session(engine, 1)
    stream.feed(m.request_headers(modes=(mode, DUPLEX)), 1)
    if mode != STREAMED:
        assert stream.feed(m.request_body(BODY, end_of_stream=False), 1) == []
    assert stream.is_waiting
    assert stream.feed(m.request_body(b"more", end_of_stream=False), 1) == []
    assert stream.feed(m.request_body(b"", end_of_stream=False), 1) == []
    assert stream.feed(m.request_trailers(), 1) == []
    finish(first)
    assert engine.dispatch(2) == [stream]
    kinds = [m.parse(reply).WhichOneof("response") for reply in stream.resume(2)]
    first_kind = "request_headers" if mode == STREAMED else "request_body"
    assert kinds == [first_kind, "request_body", "request_body", "request_trailers"]
    stream.close(2)
    assert_idle(engine)


def test_what_stops_tells_those_who_wait() -> None:
    engine = flowing()
    first = request(engine)
    waiting = [request(engine) for _ in range(3)]
    engine.turn_out(session.FAIL_STOPPING, 2)
    assert turns(engine, waiting, 2) == waiting
    for gateway in waiting:
        assert (error_of(gateway)["code"], error_of(gateway)["status"]) == ("shutting_down", 503)
        gateway.close()
    finish(first)
    assert failures(engine) == {"ShuttingDown": 3}
    assert_idle(engine)


def test_switching_it_off_lets_all_through() -> None:
    engine = flowing()
    first = request(engine)
    waiting = [request(engine) for _ in range(3)]
    engine.set_flow(None)
    assert turns(engine, waiting, 2) == waiting
    for gateway in (first, *waiting):
        finish(gateway)
    assert_idle(engine)


def test_requests_without_a_body_do_not_wait() -> None:
    engine = flowing()
    first = request(engine)
    gateway = Gateway(engine)
    gateway.send_headers("/v1/models", end=True)
    assert gateway.destination
    gateway.close()
    finish(first)
    assert_idle(engine)


def known_to_show_responses(engine: Engine) -> None:
    finish(request(engine))


def test_a_running_request_makes_room() -> None:
    """The lowest priority, once, and only as long as its client can be told."""
    engine = flowing(rules={"evicts": True})
    known_to_show_responses(engine)
    low = request(engine, objective="low", now_ns=S)
    assert low.session.is_evictable
    high = request(engine, objective="high", now_ns=S)
    assert high.session.is_waiting
    assert engine.dispatch(S) == [low.session]
    assert not low.session.is_waiting
    low.take(low.session.resume(S))
    assert (error_of(low)["status"], error_of(low)["code"]) == (429, "evicted")
    low.close()
    assert turns(engine, [high], S) == [high]
    finish(high)
    assert failures(engine) == {"Evicted": 1}
    assert_idle(engine)


def test_what_is_answered_is_not_taken_back() -> None:
    engine = flowing(rules={"evicts": True})
    known_to_show_responses(engine)
    low = request(engine, objective="low", now_ns=S)
    high = request(engine, objective="high", now_ns=S)
    assert engine.dispatch(S) == [low.session]
    low.answer_headers()  # before it could be told
    assert low.session.resume(S) == []
    assert turns(engine, [high], 2 * S) == []
    low.answer_body(SSE)
    low.complete()
    low.close()
    assert turns(engine, [high], 2 * S) == [high]
    finish(high)
    assert failures(engine) == {}
    assert_idle(engine)


@pytest.mark.parametrize("case", ["off", "unseen", "equal"])
def test_nobody_makes_room_in_vain(case: str) -> None:
    engine = flowing(rules={"evicts": case != "off"})
    if case != "unseen":
        known_to_show_responses(engine)
    running = request(engine, objective="mid" if case == "equal" else "low", now_ns=S)
    waiting = request(engine, objective="mid", now_ns=S)
    assert engine.dispatch(S) == []
    running.close()
    waiting.close()
    assert_idle(engine)


def test_view() -> None:
    engine = flowing()
    first, second = request(engine), request(engine, flow="me")
    view = engine.flow(S)
    assert (view["waiting"], view["waiting_bytes"]) == (1, len(BODY))
    assert [flow["fairness_id"] for flow in view["flows"]] == ["me"]
    assert json.dumps(view)
    second.close()
    finish(first)
    assert_idle(engine)


# --- rules ---


@pytest.mark.parametrize(
    "rules",
    [
        {"detectors": ()},
        {"detector": ("guess",)},
        {"default_band": ("lifo", "tokens", 1, 1, 1.0)},
        {"default_band": ("fcfs", "none", 1, 1, 1.0)},
        {"default_band": ("fcfs", "tokens", 1, 1, -1.0)},
        {"default_band": ("fcfs", "tokens", -1, 1, 1.0)},
        {"bands": [(1, "fcfs", "tokens", 1, 1, 1.0)] * 2},
        {"bands": [(n, "fcfs", "tokens", 1, 1, 1.0) for n in range(257)]},
        {"no_endpoint_ttl_s": float("nan")},
        {"ceiling": ("roof",)},
        {"ceiling": ("static", -0.5)},
        {"ceiling": ("holdback", "cubic", "rank", 0.5, 1.0)},
        {"ceiling": ("holdback", "linear", "name", 0.5, 1.0)},
        {"admitters": [("bouncer",)]},
        {"admitters": [("probabilistic", 0.0, 0.8, 5.0, 300.0)]},
        {"fairness_headers": [""]},
        {"fairness_headers": ["x" * 64]},
        {"fairness_headers": ["x"] * 17},
    ],
)
def test_rules_that_cannot_be(rules: dict[str, Any]) -> None:
    """Those in force stay."""
    engine = flowing()
    with pytest.raises((ValueError, OverflowError)):
        engine.set_flow(rules)
    first, second = request(engine), request(engine)
    assert second.session.is_waiting
    second.close()
    finish(first)
    assert_idle(engine)


def room_of(engine: Engine, objective: str) -> int:
    """How many requests of a priority are let in before one has to wait, or is refused."""
    gateways = [request(engine, objective=objective, now_ns=S)]
    while gateways[-1].destination and len(gateways) < 100:
        gateways.append(request(engine, objective=objective, now_ns=S))
    for gateway in gateways:
        gateway.close()
    return len(gateways) - 1


@pytest.mark.parametrize(
    ("ceiling", "rooms"),
    [
        (None, (20, 18, 18)),  # 17 are less than 0.87 of 20, 18 are not
        (("static", 0.5), (10, 10, 10)),
        (("holdback", "linear", "rank", 0.2, 1.0), (20, 12, 4)),
        (("holdback", "linear", "value", 0.2, 0.6), (12, 10, 4)),
    ],
)
def test_how_much_of_the_pool_a_priority_may_fill(ceiling: tuple[Any, ...] | None, rooms: tuple[int, ...]) -> None:
    detector = ("concurrency", "requests", 20, 1e12, 0.0)
    engine = flowing(rules={"detector": detector, "ceiling": ceiling})
    for objective in OBJECTIVES:
        request(engine, objective=objective, now_ns=S).close()  # they have come lately
    assert tuple(room_of(engine, objective) for objective in ("high", "mid", "low")) == rooms
    assert_idle(engine)


def test_a_priority_alone_fills_the_pool() -> None:
    engine = flowing(rules={"detector": ("concurrency", "requests", 20, 1e12, 0.0)})
    assert room_of(engine, "low") == 20
    assert room_of(engine, "high") == 20
    assert room_of(engine, "low") == 18
    assert_idle(engine)


def test_the_first_header_that_is_named_says_whose_it_is() -> None:
    engine = flowing(rules={"fairness_headers": ("x-user", FAIR, "session-id")})
    first = request(engine)
    waiting = []
    for headers in (
        {FAIR: "b", "X-User": "a", "session-id": "c"},
        {"session-id": "c", FAIR: "b"},
        {"session-id": "c", "x-user": ""},
        {"session-idd": "d"},
    ):
        gateway = Gateway(engine)
        gateway.send_headers(headers=headers)
        gateway.send_body([BODY])
        waiting.append(gateway)
    assert sorted(flow["fairness_id"] for flow in engine.flow(1)["flows"]) == ["", "a", "b", "c"]
    for gateway in (*waiting, first):
        gateway.close()
    assert_idle(engine)


def test_deadlines_of_clients_order_a_band() -> None:
    engine = flowing(rules={"default_band": ("slo-deadline", "strict", 0, 0, 60.0)})
    running = request(engine)
    waiting = [request(engine, slo=slo) for slo in ("900", "nonsense", "100.5", "0", "-1", "50")]
    order = []
    while engine.waiting:
        finish(running)
        (running,) = turns(engine, waiting, 2)
        order.append(waiting.index(running))
    finish(running)
    assert order[:3] == [5, 2, 0]
    assert_idle(engine)


def test_a_probabilistic_admitter() -> None:
    engine = flowing(rules={"detector": ("adaptive",), "admitters": [("probabilistic", 5.0, 0.8, 5.0, 300.0)]})
    (endpoint,) = engine.endpoints(0)
    for waiting, share in ((0, 0.0), (1, 300 * 0.2**5), (5, 1.0)):
        engine.observe(0, endpoint["generation"], now_ns=S, waiting=waiting, running=1, kv_usage=0.01)
        denied = 0
        for _ in range(400):
            gateway = request(engine, objective="low", now_ns=S)
            denied += gateway.immediate is not None and error_of(gateway)["code"] == "admission_denied"
            gateway.close()
        assert abs(denied / 400 - share) < 0.1
    gateway = request(engine, now_ns=S)
    assert gateway.immediate is None  # others are not asked
    gateway.close()
    assert_idle(engine)


def test_a_latency_slo_admitter() -> None:
    engine = flowing(rules={"detector": ("concurrency", "requests", 9, 1e12, 0.0), "admitters": [("latency-slo",)]})
    idle = request(engine, objective="low", slo="1")
    assert idle.destination
    denied = request(engine, objective="low", slo="1")
    assert error_of(denied)["code"] == "admission_denied"
    patient, silent, high = (
        request(engine, objective="low", slo="60000"),
        request(engine, objective="low"),
        request(engine, objective="high", slo="1"),
    )
    for gateway in (idle, denied, patient, silent, high):
        assert gateway is denied or gateway.destination
        gateway.close()
    assert_idle(engine)


def test_when_to_come_again_goes_by_how_fast_turns_are_given() -> None:
    engine = flowing(rules={"default_band": ("fcfs", "tokens", 30, 0, 60.0)})
    running, now_ns = request(engine, now_ns=S), S
    waiting = [request(engine, now_ns=S) for _ in range(30)]
    for _ in range(20):  # one in half a second
        now_ns += S // 2
        finish(running)
        (running,) = turns(engine, waiting, now_ns)
        waiting.append(request(engine, now_ns=now_ns))
    refused = request(engine, now_ns=now_ns)
    assert error_of(refused)["code"] == "queue_full" and 14 <= retry_after(refused) <= 18
    for gateway in (*waiting, running, refused):
        gateway.close()
    assert_idle(engine)


# --- memory ---


def crowded_life(engine: Engine) -> None:
    """Requests that wait, and end in every way."""
    running = request(engine, flow="a")
    waiting = [request(engine, flow="a"), request(engine, flow="b"), request(engine), request(engine)]
    waiting[0].close()
    finish(running)
    (called,) = engine.dispatch(2)
    called.close(2)
    turns(engine, waiting, 3)
    engine.turn_out(session.FAIL_STOPPING, 3)
    turns(engine, waiting, 3)
    for gateway in waiting:
        gateway.close()


def test_leaks_nothing() -> None:
    engine = flowing()
    for _ in range(2):  # with the second, whoever was served has figures of his own
        crowded_life(engine)
    assert_flat(lambda: crowded_life(engine), calls=20)
    assert_idle(engine)


@debug_build_only
def test_survives_failing_allocations() -> None:
    def life() -> None:
        engine = flowing()
        gateways = [Gateway(engine) for _ in range(3)]
        try:
            for gateway in gateways:
                gateway.send_headers(headers={FAIR: "me"}, subset=["10.0.0.1"])
                gateway.send_body([BODY])
            gateways[0].close()
            turns(engine, gateways, 2)
        finally:
            for gateway in gateways:
                gateway.close()
            assert_idle(engine)

    assert failing_allocations(life) > 20


def test_where_nobody_else_may_wait_for_an_endpoint_there_is_none() -> None:
    """Not that those there are were at their capacity: 503, not 429."""
    engine = flowing(1, rules={"no_endpoint_ttl_s": 30.0, "max_requests": 1})
    engine.remove_endpoint(0, 1)
    waiting, refused = request(engine), request(engine)
    assert waiting.session.is_waiting
    assert (refused.immediate.status.code, refused.immediate.details) == (503, "rejected-no-endpoints")
    waiting.close()
    refused.close()
    assert_idle(engine)


@pytest.mark.parametrize("objective", ["low", "mid"])
def test_who_may_go_to_some_endpoints_does_not_take_what_has_just_become_free(objective: str) -> None:
    engine = flowing(1)
    first, waiting = request(engine), request(engine, objective="high")
    finish(first)
    late = Session(engine, 2)
    said = {OBJECTIVE: objective}
    late.feed(m.request_headers(headers=said, subset=["10.0.0.1:8000"]), 2)
    late.feed(m.request_body(BODY), 2)
    assert late.state != session.STATE_PICKED
    assert turns(engine, [waiting], 2) == [waiting]
    assert waiting.session.state == session.STATE_PICKED
    finish(waiting)
    late.close(2)
    assert_idle(engine)
