import json
import math
from typing import Any

import pytest

from picker._core.engine import Engine
from picker._core.session import Session
from tests.support import messages
from tests.support.builds import debug_build_only
from tests.support.exchange import (
    BODY,
    MS,
    SSE,
    STREAMED,
    assert_idle,
    engine_with,
    failures,
    only_series,
    whole_exchange,
)
from tests.support.gateway import DUPLEX, Gateway
from tests.support.leaks import assert_flat, failing_allocations

SECOND = 1000 * MS
MAX = (30, 1.0, (), 0)


def ask(engine: Engine, now_ns: int = 1, body: bytes = BODY) -> Gateway:
    gateway = Gateway(engine, now_ns=now_ns)
    gateway.send_headers()
    gateway.send_body([body])
    return gateway


def answer(gateway: Gateway, status: int = 200, now_ns: int = 1, served: str = "") -> None:
    gateway.now_ns = now_ns
    gateway.answer_headers(status, served=served)
    gateway.answer_body(SSE)
    gateway.close()


def leave(gateway: Gateway, now_ns: int) -> None:
    """The stream ends without an answer."""
    gateway.now_ns = now_ns
    gateway.close()


def view(engine: Engine, number: int = 1, now_ns: int = 1) -> dict[str, Any]:
    return next(one for one in engine.endpoints(now_ns) if one["target"] == f"10.0.0.{number}:8000")


# --- limits and arguments ---


def test_limits_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"no limit called \['pods'\]"):
        Engine(hash_seed=1, limits={"pods": 1})
    for name, value in (("sessions", 0), ("models", 2**20 + 1), ("index_blocks", 2**31), ("json_depth", 1025)):
        with pytest.raises(ValueError, match=f"limit {name} is 1 to"):
            Engine(hash_seed=1, limits={name: value})
    with pytest.raises(OverflowError):
        Engine(hash_seed=1, limits={"sessions": 2**32})
    with pytest.raises(OverflowError):
        Engine(hash_seed=2**64)
    Engine(hash_seed=1, limits={"json_depth": 1024, "models": 1, "prompt_blocks": 1})


@pytest.mark.parametrize(
    ("target", "address", "token"),
    [
        ("10.0.0.1:80,10.0.0.2:80", "10.0.0.1", ""),
        ("10.0.0.1:80\r\nx: y", "10.0.0.1", ""),
        ("10.0.0.1 :80", "10.0.0.1", ""),
        ("", "10.0.0.1", ""),
        ("é:80", "10.0.0.1", ""),
        ("x" * 57, "10.0.0.1", ""),
        ("10.0.0.1:80", "10.0.0.1", "a b"),
        ("10.0.0.1:80", "10.0.0.1", "a\nb"),
        ("10.0.0.1:80", "10.0.0.1", "t" * 433),
    ],
)
def test_endpoints_that_cannot_stand_in_a_header(target: str, address: str, token: str) -> None:
    engine = engine_with(0)
    with pytest.raises(ValueError, match=r"cannot stand in a header|bytes"):
        engine.add_endpoint(target, address, token=token)
    assert engine.endpoints(0) == []


def test_no_more_endpoints_than_may_be() -> None:
    engine = engine_with(3, endpoints=3)
    with pytest.raises(OverflowError, match="at most 3"):
        engine.add_endpoint("10.0.0.9:80", "10.0.0.9")
    engine._check()


def test_endpoints_that_have_gone() -> None:
    engine = engine_with(0)
    slot, generation = engine.add_endpoint(b"10.0.0.1:8000", b"10.0.0.1")
    engine.remove_endpoint(slot, generation)
    assert engine.add_endpoint("10.0.0.1:8000", "10.0.0.1") == (slot, generation + 1)
    for call in (engine.remove_endpoint, lambda *gone: engine.set_labels(*gone, 1)):
        with pytest.raises(KeyError):
            call(slot, generation)
    assert not engine.observe(slot, generation, now_ns=1)
    assert not engine.is_busy(slot, generation)
    assert not engine.is_busy(99, 1)


def test_a_policy_that_cannot_be_leaves_the_old_one() -> None:
    engine = engine_with(1)
    whole_exchange(engine)
    for steps, more in (([], {}), ([(99, 1.0, (), 0)], {}), ([MAX], {"session_header": ""}), ([MAX], {"wanted": 0})):
        with pytest.raises((ValueError, OverflowError)):
            engine.set_policy(steps, **more)
    for header in ("x" * 65, "a b", "ü", "a\n"):
        with pytest.raises(ValueError, match="header"):
            engine.set_policy([MAX], session_header=header)
    with pytest.raises(TypeError):
        engine.set_policy([MAX], session_header=None)  # type: ignore[arg-type]
    assert len(engine.decisions()) == 1
    whole_exchange(engine)


def test_many_endpoints_are_chosen_in_order() -> None:
    engine = engine_with(5)
    engine.set_policy([(13, 1.0, (0.0, 1.0), 0), MAX], wanted=3)
    gateway = ask(engine)
    first = gateway.destination.split(",")
    assert len(set(first)) == 3
    answer(gateway)
    assert ask(engine).destination.split(",")[0] == first[0]  # it is thought to hold the prompt


def test_more_endpoints_than_there_was_room_for() -> None:
    engine = Engine(hash_seed=1)
    slots = [engine.add_endpoint(f"10.0.{i // 250}.{i % 250}:80", f"10.0.{i // 250}.{i % 250}") for i in range(300)]
    whole_exchange(engine)
    assert len(engine.endpoints(0)) == 300
    for slot in slots:
        engine.remove_endpoint(*slot)
    assert (engine.endpoints(0), engine.index_blocks) == ([], 0)
    assert ask(engine).immediate.status.code == 503


def test_a_prompt_but_no_endpoint() -> None:
    engine = Engine(hash_seed=1)
    assert ask(engine).immediate.status.code == 503


# --- what is booked ---


def test_what_a_request_books() -> None:
    engine = engine_with(1)
    gateway = ask(engine)
    (decision,) = engine.decisions()
    booked = view(engine)
    assert (booked["requests"], booked["prefill_tokens"]) == (1, decision["prompt_tokens"])
    assert booked["resident_tokens"] == decision["prompt_tokens"] + 256
    slot = engine.endpoints(0)[0]
    assert engine.is_busy(slot["slot"], slot["generation"])
    gateway.answer_headers()
    assert view(engine)["prefill_tokens"] == decision["prompt_tokens"]
    gateway.answer_body(SSE[:1], ending="open")
    assert (view(engine)["prefill_tokens"], view(engine)["requests"]) == (0, 1)
    gateway.answer_body(SSE[1:])
    assert engine.in_flight == 1  # until the stream ends
    gateway.close()
    assert_idle(engine)


def test_an_endpoint_that_went_takes_its_bookings_along() -> None:
    engine = engine_with(1)
    gateway = ask(engine)
    slot, generation = view(engine)["slot"], view(engine)["generation"]
    engine.remove_endpoint(slot, generation)
    assert engine.in_flight == 0
    engine.add_endpoint("10.0.0.1:8000", "10.0.0.1")
    gateway.answer_headers()
    gateway.answer_body(SSE)
    gateway.close()
    assert_idle(engine)
    assert only_series(engine)["running"] == 0


@pytest.mark.parametrize("tokens", [-5, 2**30 + 1, 2**63, 2**200, 1e300, "many", None])
def test_usage_that_is_nonsense(tokens: Any) -> None:
    """Figures of a model server gone mad are not believed: what is booked stays in bounds."""
    engine = engine_with(1)
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": tokens}}
    for _ in range(100):
        gateway = ask(engine)
        gateway.answer_headers()
        gateway.answer_body([b"data: " + json.dumps({"usage": usage}).encode() + b"\n\n", b"data: [DONE]\n\n"])
        gateway.close()
    assert engine.stats()["reported_tokens"] == 0
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        assert only_series(engine)[name][1] == 0
    held = ask(engine)
    assert view(engine)["resident_tokens"] == engine.decisions(1)[0]["prompt_tokens"] + 256
    held.close()


def test_the_expected_answer_is_learned() -> None:
    engine = engine_with(1)
    for _ in range(300):
        whole_exchange(engine)  # three tokens each
    held = ask(engine)
    assert view(engine)["resident_tokens"] - engine.decisions(1)[0]["prompt_tokens"] == 3
    held.close()


def test_the_cached_prompt_is_not_booked_again() -> None:
    engine = engine_with(1)
    whole_exchange(engine)
    held = ask(engine)
    (decision,) = engine.decisions(1)
    assert decision["cached_tokens"] == 128
    assert view(engine)["prefill_tokens"] == decision["prompt_tokens"] - 128
    assert engine.stats()["hit_ratio"][1] == pytest.approx(128 / decision["prompt_tokens"])
    held.close()


# --- the breaker ---


def test_three_answers_of_5xx_in_a_row_eject() -> None:
    engine = engine_with(2)
    engine.set_policy([MAX], ignore_subset=False)
    for status in (500, 503, 200, 500, 500):
        gateway = Gateway(engine)
        gateway.send_headers(end=True, subset=["10.0.0.1"])
        gateway.answer_headers(status, end=True)
        gateway.close()
        assert not view(engine)["ejected"]
    gateway = Gateway(engine)
    gateway.send_headers(end=True, subset=["10.0.0.1"])
    gateway.answer_headers(500, end=True)
    gateway.close()
    assert view(engine)["ejected"]
    assert engine.stats()["ejected"] == 1
    for _ in range(20):
        assert whole_exchange(engine).destination == "10.0.0.2:8000"


def test_if_all_are_ejected_one_is_picked_all_the_same() -> None:
    engine = engine_with(1)
    for _ in range(3):
        answer(ask(engine), 500)
    assert view(engine)["ejected"]
    assert ask(engine).destination == "10.0.0.1:8000"


@pytest.mark.parametrize(
    ("waited_ns", "ejects"), [(0, True), (250 * MS, True), (251 * MS, False), (9 * SECOND, False), (10 * SECOND, True)]
)
def test_no_answer_soon_or_late_counts_against_the_endpoint(waited_ns: int, ejects: bool) -> None:
    engine = engine_with(1)
    whole_exchange(engine)  # this gateway shows responses
    for _ in range(3):
        leave(ask(engine, SECOND), SECOND + waited_ns)
    assert (engine.stats()["ejected"] == 1) == ejects
    assert failures(engine) == {"NoAnswer": 3}


def test_clients_that_leave_do_not_eject_an_endpoint_that_lives() -> None:
    engine = engine_with(1)
    whole_exchange(engine)
    slot, generation = view(engine)["slot"], view(engine)["generation"]
    engine.observe(slot, generation, now_ns=SECOND - 499 * MS)
    for _ in range(5):
        leave(ask(engine, SECOND), SECOND)
    late = [ask(engine, SECOND) for _ in range(5)]
    engine.observe(slot, generation, now_ns=SECOND + 1)
    for gateway in late:
        leave(gateway, 20 * SECOND)
    assert engine.stats()["ejected"] == 0
    for _ in range(3):
        leave(ask(engine, 20 * SECOND), 20 * SECOND)
    assert engine.stats()["ejected"] == 1


def test_a_gateway_that_shows_no_responses_ejects_nobody() -> None:
    """It closes each stream once the request is answered: that is success, as far as anybody knows."""
    engine = engine_with(1)
    for _ in range(10):
        leave(ask(engine, SECOND), SECOND)
    assert engine.stats()["ejected"] == 0
    assert failures(engine) == {}
    assert only_series(engine)["requests"] == 10


def test_a_client_that_leaves_during_its_upload() -> None:
    engine = engine_with(1)
    whole_exchange(engine)
    for _ in range(5):
        gateway = Gateway(engine, modes=(STREAMED, DUPLEX))
        gateway.send_headers()
        gateway.send_body([b"half"], ending="open")
        gateway.close()
    assert engine.stats()["ejected"] == 0
    assert failures(engine) == {"Canceled": 5}


# --- the endpoint that served ---


def test_another_endpoint_served() -> None:
    engine = engine_with(2)
    picked: list[str] = []
    for _ in range(3):
        gateway = Gateway(engine)
        gateway.send_headers(end=True, subset=["10.0.0.1"])
        gateway.answer_headers(200, served="10.0.0.2:8000")
        assert (view(engine, 1)["requests"], view(engine, 2)["requests"]) == (0, 1)
        gateway.close()
        picked.append(gateway.destination)
    assert picked == ["10.0.0.1:8000"] * 3
    assert view(engine, 1)["ejected"] and not view(engine, 2)["ejected"]  # each time it had failed before
    assert view(engine, 2)["picks"] == 3
    assert_idle(engine)


def test_what_is_booked_moves_to_the_endpoint_that_served() -> None:
    engine = engine_with(2)
    gateway = ask(engine)
    first = int(gateway.destination[7])
    other = 3 - first
    booked = view(engine, first)
    gateway.now_ns = 1000 * MS
    gateway.answer_headers(200, served=f"10.0.0.{other}:8000")
    moved = view(engine, other, 1000 * MS)
    for figure in ("requests", "prefill_tokens", "resident_tokens"):
        assert (view(engine, first)[figure], moved[figure]) == (0, booked[figure])
    gateway.answer_body(SSE)
    assert view(engine, other)["prefill_rate"] == 15000.0  # teaches nothing
    gateway.close()
    assert_idle(engine)


def test_an_unknown_endpoint_served() -> None:
    engine = engine_with(1)
    for _ in range(5):
        gateway = ask(engine)
        gateway.answer_headers(200, served="192.168.0.1:80")
        assert engine.in_flight == 0
        gateway.answer_body(SSE)
        gateway.close()
    assert engine.stats()["ejected"] == 0
    assert_idle(engine)


def test_the_picked_endpoint_served() -> None:
    engine = engine_with(1)
    gateway = ask(engine)
    gateway.answer_headers(200, served=gateway.destination)
    assert (engine.in_flight, view(engine)["picks"]) == (1, 1)
    gateway.close()


# --- models and their series ---


def test_a_model_gets_a_series_once_it_has_answered() -> None:
    engine = engine_with(1)
    unknown = BODY.replace(b"llama", b"unknown")
    gateway = ask(engine, body=unknown)
    assert only_series(engine)["model"] == "other"
    answer(gateway, 404)
    assert only_series(engine)["failures"] == {"ModelServerError": 1}
    answer(ask(engine))
    assert {one["model"]: one["requests"] for one in engine.stats()["series"]} == {"other": 1, "llama": 1}
    answer(ask(engine), 500)
    assert {one["model"]: one["requests"] for one in engine.stats()["series"]} == {"other": 1, "llama": 2}
    assert [decision["model"] for decision in engine.decisions()] == ["llama", "llama", "other"]


def test_names_that_no_server_knows_take_no_room() -> None:
    engine = engine_with(1, models=2)
    for number in range(50):
        answer(ask(engine, body=BODY.replace(b"llama", b"junk-%d" % number)), 404)
    answer(ask(engine))
    answer(ask(engine, body=BODY.replace(b"llama", b"\\u006c\\u006cama")))  # the same, escaped
    series = {one["model"]: one["requests"] for one in engine.stats()["series"]}
    assert series == {"other": 50, "llama": 2}


@pytest.mark.parametrize("name", [b"other", b"\\ud800", b"x" * 257, b"x" * 100_000, b"\\n" * 300])
def test_names_without_a_series_of_their_own(name: bytes) -> None:
    engine = engine_with(1)
    for _ in range(2):
        answer(ask(engine, body=BODY.replace(b"llama", name)))
    assert only_series(engine)["model"] == "other"
    assert only_series(engine)["requests"] == 2


def test_the_longest_name() -> None:
    engine = engine_with(1)
    answer(ask(engine, body=BODY.replace(b"llama", b"\\u00e9" * 128)))
    assert only_series(engine)["model"] == "é" * 128


# --- decisions and other figures ---


def test_decisions_newest_first() -> None:
    engine = engine_with(1)
    for _ in range(1030):
        Gateway(engine).send_headers(end=True)
    assert [decision["number"] for decision in engine.decisions(3)] == [1030, 1029, 1028]
    assert [decision["number"] for decision in engine.decisions(5000)] == list(range(1030, 6, -1))
    assert engine.decisions(0) == []
    with pytest.raises(OverflowError):
        engine.decisions(-1)


def test_a_new_policy_forgets_decisions_of_the_old() -> None:
    engine = engine_with(1)
    ask(engine)
    engine.set_policy([(13, 1.0, (0.0, 1.0), 0), MAX])
    assert engine.decisions() == []
    ask(engine)
    (decision,) = engine.decisions()
    assert (decision["number"], decision["scores"]) == (2, [pytest.approx(0.84, abs=0.01), 0.0])


def test_nonsense_durations() -> None:
    engine = engine_with(0)
    for took_s in (math.nan, math.inf, -1.0, 1.0):
        engine.count_scheduling(took_s)
    rows, _ = engine.stats()["scheduling_s"]
    assert rows[-1][1] == 4
    engine._check()


def test_a_smaller_cache_evicts_from_the_index() -> None:
    engine = engine_with(1)
    slot, generation = view(engine)["slot"], view(engine)["generation"]
    answer(ask(engine))
    assert engine.index_blocks == 2
    assert engine.index_bytes > 0
    for cache_tokens, blocks in ((-1, 2), (0, 2), (2**62, 2), (63, 1), (1, 1)):
        engine.observe(slot, generation, now_ns=1, cache_tokens=cache_tokens)
        assert engine.index_blocks == blocks


# --- memory ---


def test_leaks_nothing() -> None:
    engine = engine_with(2)

    def each() -> None:
        slot = engine.add_endpoint("10.0.0.9:80", "10.0.0.9", token="t")
        engine.observe(*slot, now_ns=1, running_adapters=["a"], cache_tokens=640)
        answer(ask(engine), served="10.0.0.9:80")
        engine.stats()
        engine.endpoints(1)
        engine.decisions()
        engine.remove_endpoint(*slot)
        with pytest.raises(ValueError, match="header"):
            engine.add_endpoint("a b", "c")
        with pytest.raises(ValueError, match="limit"):
            Engine(hash_seed=1, limits={"x": 1})

    for _ in range(20):  # until every endpoint is thought to hold the prompt
        each()
    assert_flat(each, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: Engine(hash_seed=1, limits={"prompt_blocks": 4})) > 5
    engine = engine_with(64)

    def widen() -> None:
        slot = engine.add_endpoint("10.1.0.1:80", "10.1.0.1")
        engine.remove_endpoint(*slot)

    assert failing_allocations(widen) >= 1
    engine._check()
    assert len(engine.endpoints(0)) == 64


def test_sessions_keep_their_engine() -> None:
    stream = Session(engine_with(1), 0)
    (reply,) = stream.feed(messages.request_headers("/v1/models", end_of_stream=True), 0)
    assert messages.parse(reply).HasField("request_headers")
    stream.close(0)
