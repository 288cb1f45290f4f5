"""Python plugins at work: what they are told, and that nothing they do costs a request."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from picker._core.session import Session
from picker.config import PluginType, Role
from picker.policy.api import Candidate, Filter, Picker, Plugin, Request, Scorer
from picker.policy.host import BUDGET_S, PICK_BUDGET_S, REST_AFTER, REST_S, PluginHost, PluginRecord
from tests.support.config_samples import HEAD
from tests.support.exchange import engine_with
from tests.support.gateway import Gateway
from tests.support.rig import Rig, chat, endpoint, target

ENDPOINTS = [
    {
        "slot": slot, "generation": 1, "target": f"10.0.0.{slot}:80", "waiting": -1.0, "running": 2.0, "kv_usage": 0.5,
        "max_lora": -1.0, "scraped_ns": 0, "requests": 3, "prefill_tokens": 4, "resident_tokens": 5,
        "prefill_rate": 6.0, "cached_tokens": 7, "total": 0.25,
    }
    for slot in (4, 9, 2)
]  # fmt: skip
ASKED = {"pick": 1, "model": b"m", "prompt_tokens": 100, "headers": b""}


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asked:
    """A host with one plugin, whose answer is `answer` or what it returns."""

    base: type[Plugin]
    answer: Any
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        def method(_: Plugin, request: Request, candidates: Sequence[Candidate]) -> Any:
            return self.answer(request, candidates) if callable(self.answer) else self.answer

        name = {Scorer: "score", Filter: "keep", Picker: "pick"}.get(self.base, "score")
        self.record = PluginRecord(type("Mine", (self.base,), {name: method})({}), "mine", "my-plugin")
        self.host = PluginHost({3: self.record}, clock=self.clock)
        self.pick = 0

    def __call__(self) -> list[float] | None:
        self.pick += 1
        return self.again()

    def again(self) -> list[float] | None:
        """Once more for the same request."""
        return self.host(3, {**ASKED, "pick": self.pick}, ENDPOINTS)


# --- answers ---


@pytest.mark.parametrize(
    ("base", "answer", "expected"),
    [
        (Scorer, [0.5, 1, 0], [0.5, 1.0, 0.0]),
        (Scorer, (7.0, -1.0, True), [7.0, -1.0, 1.0]),  # the core clamps
        (Filter, [True, False, True], [4, 2]),
        (Filter, (1, 0, 1), [4, 2]),
        (Filter, [False] * 3, []),
        (Picker, 1, [9]),
        (Picker, 2, [2]),
    ],
)
def test_answers_that_fit(base: type[Plugin], answer: Any, expected: list[float]) -> None:
    asked = Asked(base, answer)
    assert asked() == expected
    assert (asked.record.calls, asked.record.errors, asked.record.last_error) == (1, 0, "")


def raising(problem: BaseException) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        raise problem

    return answer


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("base", "answer", "why"),
    [
        (Scorer, [0.5, 0.5], "ValueError: 2 answers for 3 candidates"),
        (Scorer, [0.5] * 4, "ValueError: 4 answers for 3 candidates"),
        (Scorer, [0.5, float("nan"), 0.5], "ValueError: a score is not finite"),
        (Scorer, [0.5, float("inf"), 0.5], "ValueError: a score is not finite"),
        (Scorer, ["0.5"] * 3, "TypeError: must be real number, not str"),
        (Scorer, "123", "TypeError: must be real number, not str"),
        (Scorer, {"10.0.0.4:80": 1.0}, "ValueError: 1 answers for 3 candidates"),
        (Scorer, [1j] * 3, "TypeError: must be real number, not complex"),
        (Scorer, [10**400] * 3, "OverflowError: int too large to convert to float"),
        (Scorer, None, "TypeError: 'NoneType' object is not iterable"),
        (Filter, [True], "ValueError: 1 answers for 3 candidates"),
        (Filter, ["yes", "no", "yes"], "ValueError: an answer is neither True nor False"),
        (Filter, [0, 2, 1], "ValueError: an answer is neither True nor False"),
        (Filter, True, "TypeError: 'bool' object is not iterable"),
        (Picker, 3, "ValueError: picked index 3 of 3 candidates"),
        (Picker, -1, "ValueError: picked index -1 of 3 candidates"),
        (Picker, True, "ValueError: picked index True of 3 candidates"),
        (Picker, 1.0, "TypeError: list indices must be integers or slices, not float"),
        (Picker, None, "TypeError: '<=' not supported between instances of 'int' and 'NoneType'"),
        (Plugin, [0.5] * 3, "TypeError: Mine is neither a Scorer, a Filter nor a Picker"),
        (Scorer, raising(KeyError("boom")), "KeyError: 'boom'"),
        (Scorer, raising(SystemExit(3)), "SystemExit: 3"),
        (Scorer, raising(MemoryError()), "MemoryError"),
        (Filter, raising(Unspeakable()), "test_host.Unspeakable: <exception str() failed>"),
    ],
)
def test_nonsense_is_dropped_and_counted(base: type[Plugin], answer: Any, why: str) -> None:
    asked = Asked(base, answer)
    assert asked() is None
    assert asked.record.last_error.endswith(why)
    assert (asked.record.calls, asked.record.errors, asked.record.overruns) == (1, 1, 0)


def test_an_interrupt_from_the_keyboard_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Asked(Scorer, raising(KeyboardInterrupt()))()


def test_candidates_cannot_be_reordered_or_changed() -> None:
    def tamper(request: Request, candidates: Sequence[Candidate]) -> Any:
        assert isinstance(candidates, tuple)
        with pytest.raises(AttributeError):
            candidates[0].total = 9.0  # type: ignore[misc]
        with pytest.raises(AttributeError):
            request.model = "x"  # type: ignore[misc]
        return [0.0] * 3

    assert Asked(Scorer, tamper)() == [0.0] * 3


# --- time ---


def taking(clock: Clock, seconds: float) -> Callable[..., Any]:
    def answer(_: Request, candidates: Sequence[Candidate]) -> Any:
        clock.now += seconds
        return [1.0] * len(candidates)

    return answer


def test_an_answer_that_comes_late_is_not_used() -> None:
    asked = Asked(Scorer, None)
    asked.answer = taking(asked.clock, BUDGET_S * 0.99)
    assert asked() == [1.0] * 3
    asked.answer = taking(asked.clock, BUDGET_S * 1.2)
    assert asked() is None
    assert (asked.record.calls, asked.record.errors, asked.record.overruns) == (2, 0, 1)
    assert asked.record.last_error == "took 12.0 ms of 10.0"
    assert asked.record.seconds == pytest.approx(BUDGET_S * 2.19)


def test_a_request_that_has_waited_long_goes_on_without() -> None:
    """However often it is picked anew; the next one has its own time."""
    asked = Asked(Scorer, None)
    asked.answer = taking(asked.clock, PICK_BUDGET_S * 0.15)
    assert asked() == [1.0] * 3
    assert [asked.again() for _ in range(6)] == [[1.0] * 3] * 6
    assert (asked.again(), asked.again()) == (None, None)
    assert (asked.record.calls, asked.record.errors, asked.record.skipped) == (7, 0, 2)
    assert asked() == [1.0] * 3


def test_many_plugins_share_the_time_of_a_request() -> None:
    clock = Clock()

    class Slow(Scorer):
        def score(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[float]:
            clock.now += BUDGET_S * 0.9
            return [1.0] * len(candidates)

    records = {step: PluginRecord(Slow({}), "slow", f"slow-{step}") for step in range(8)}
    engine = engine_with(2)
    engine.set_policy([*[(20, 1.0, (), 0)] * 8, (30, 1.0, (), 0)], plugins=PluginHost(records, clock=clock))
    for served in (1, 2):
        gateway = Gateway(engine)
        gateway.send_headers("/v1/models", end=True)
        gateway.complete()
        assert [record.calls for record in records.values()] == [served] * 6 + [0, 0]
        assert [record.skipped for record in records.values()] == [0] * 6 + [served] * 2


def test_after_some_failures_in_a_row_it_rests() -> None:
    asked = Asked(Scorer, raising(ValueError("boom")))
    for _ in range(REST_AFTER):
        assert asked() is None
    assert asked.record.errors == REST_AFTER
    asked.answer = [1.0] * 3
    asked.clock.now += REST_S * 0.999
    assert asked() is None
    assert (asked.record.calls, asked.record.skipped) == (REST_AFTER, 1)
    asked.clock.now += REST_S * 0.001
    assert asked() == [1.0] * 3


def test_one_more_failure_sends_it_back_to_rest() -> None:
    asked = Asked(Scorer, raising(ValueError("boom")))
    for _ in range(REST_AFTER):
        asked()
    asked.clock.now += REST_S
    assert asked() is None
    assert (asked.record.errors, asked.record.skipped) == (REST_AFTER + 1, 0)
    asked.answer = [1.0] * 3
    assert asked() is None
    assert asked.record.skipped == 1


def test_a_success_in_between_keeps_it_at_work() -> None:
    asked = Asked(Scorer, None)
    for _ in range(3):
        asked.answer = raising(ValueError("boom"))
        for _ in range(REST_AFTER - 1):
            asked()
        asked.answer = [1.0] * 3
        assert asked() == [1.0] * 3
    assert (asked.record.errors, asked.record.skipped) == (3 * (REST_AFTER - 1), 0)


def test_the_log_says_why_but_not_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(Scorer, None)
    for _ in range(50):
        asked.answer = raising(ValueError("boom"))
        asked()
        asked.answer = [1.0] * 3
        asked()
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "plugin my-plugin (mine) skipped for a request: ValueError: boom"
    assert line.exc_info
    asked.clock.now += REST_S
    asked.answer = raising(ValueError("boom"))
    for _ in range(REST_AFTER):
        asked()
    assert [record.levelname for record in caplog.records[1:]] == ["WARNING", "ERROR"]
    assert "failed 5 times in a row, left out for 30 s: ValueError: boom" in caplog.records[-1].getMessage()


def test_what_people_see_of_it() -> None:
    asked = Asked(Filter, [True] * 3)
    asked()
    assert asked.record.view() == {
        "name": "my-plugin", "type": "mine", "role": "filter", "calls": 1, "seconds": 0.0, "errors": 0, "overruns": 0,
        "skipped": 0, "last_error": "",
    }  # fmt: skip


# --- in an engine ---


class Watched(Scorer):
    """Prefers the endpoint of the highest address; keeps what it was told."""

    def __init__(self, parameters: Any) -> None:
        self.calls: list[tuple[Request, Sequence[Candidate]]] = []
        self.during: Callable[[], object] = lambda: None

    def score(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[float]:
        self.calls.append((request, candidates))
        self.during()
        best = max(candidate.target for candidate in candidates)
        return [float(candidate.target == best) for candidate in candidates]


class NotFirst(Filter):
    def keep(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[bool]:
        return [index > 0 for index, _ in enumerate(candidates)]


class Second(Picker):
    def pick(self, request: Request, candidates: Sequence[Candidate]) -> int:
        return sorted(range(len(candidates)), key=lambda index: -candidates[index].total)[1]


class Broken(Picker):
    def pick(self, request: Request, candidates: Sequence[Candidate]) -> int:
        return sys.maxsize


CLASSES: dict[str, type[Plugin]] = {"watched": Watched, "not-first": NotFirst, "second": Second, "broken": Broken}
TYPES = {name: PluginType(name, Role(made.role), None) for name, made in CLASSES.items()}


def rig(plugins: str, count: int = 3) -> Rig:
    pool = [endpoint(number + 1) for number in range(count)]
    return Rig(HEAD + f"plugins: [{plugins}]", pool, extra_types=TYPES, installed=CLASSES)


def watched(made: Rig) -> Watched:
    assert made.policy.host is not None
    return next(r.plugin for r in made.policy.host.records.values() if isinstance(r.plugin, Watched))


def test_a_plugin_is_asked_once_per_request_about_all_candidates() -> None:
    made = rig("{type: kv-cache-utilization-scorer}, {type: watched}")
    made.load(2, waiting=4, running=5, kv_usage=0.25)
    first, _ = made.send(chat("p" * 6400, model="Grüße"), headers={"X-Team": "blue", "x-list": "a"})
    ((request, candidates),) = watched(made).calls
    assert (request.model, request.headers["x-team"], request.headers[":path"]) == (
        "Grüße", "blue", "/v1/chat/completions",
    )  # fmt: skip
    assert 1600 <= request.prompt_tokens <= 1620
    assert [candidate.target for candidate in candidates] == [target(1), target(2), target(3)]
    idle = candidates[0]
    assert (idle.waiting, idle.running, idle.kv_usage, idle.total) == (-1.0, -1.0, -1.0, 1.0)
    assert (candidates[1].waiting, candidates[1].running, candidates[1].kv_usage, candidates[1].total) == (
        4.0, 5.0, 0.25, 0.75,
    )  # fmt: skip
    assert idle.prefill_rate == made.policy.prior_rate
    assert first.destination == target(3)
    made.send(chat("p" * 6400, model="Grüße"))
    booked = watched(made).calls[1][1][2]
    assert (booked.requests, booked.prefill_tokens) == (1, request.prompt_tokens)
    assert booked.resident_tokens > request.prompt_tokens
    assert request.prompt_tokens - 64 < booked.cached_tokens <= request.prompt_tokens
    assert made.scores() == {"kv-cache-utilization-scorer": 1.0, "watched": 1.0}


def test_header_values_sent_twice_are_joined() -> None:
    made = rig("{type: watched}")
    message = ext_proc.ProcessingRequest()
    for value in (b"a", b"\xff"):
        message.request_headers.headers.headers.add(key="x-list", raw_value=value)
    message.request_headers.end_of_stream = True
    session = Session(made.engine, 1)
    session.feed(message.SerializeToString(), 1)
    ((request, _),) = watched(made).calls
    assert (request.headers, request.model, request.prompt_tokens) == ({"x-list": "a, \xff"}, "", 0)
    session.close(1)


def test_filters_scorers_and_pickers_work_together() -> None:
    made = rig("{type: not-first}, {type: watched}, {type: second}")
    assert made.pick() == target(2)  # 3 scores highest, 2 is the second of what the filter left
    assert [candidate.target for candidate in watched(made).calls[0][1]] == [target(2), target(3)]


def test_a_filter_that_keeps_none_is_a_503() -> None:
    session, (reply,) = rig("{type: not-first}", count=1).send()
    assert (session.destination, reply.immediate_response.status.code) == ("", 503)


def test_a_picker_that_fails_is_replaced_by_the_highest_score() -> None:
    made = rig("{type: watched}, {type: broken}")
    assert [made.pick() for _ in range(2 * REST_AFTER)] == [target(3)] * 2 * REST_AFTER
    assert made.policy.host is not None
    record = next(r for r in made.policy.host.records.values() if r.type == "broken")
    assert (record.calls, record.errors, record.skipped) == (REST_AFTER, REST_AFTER, REST_AFTER)


def test_a_scorer_that_fails_adds_nothing() -> None:
    made = rig("{type: kv-cache-utilization-scorer}, {type: watched}")
    made.load(1, waiting=0, kv_usage=0.0)
    made.load(2, waiting=0, kv_usage=0.5)
    made.load(3, waiting=0, kv_usage=0.5)
    watched(made).during = raising(ValueError("boom"))
    assert made.pick() == target(1)
    assert made.scores() == {"kv-cache-utilization-scorer": 1.0, "watched": 0.0}


def test_endpoints_that_go_during_the_call_are_not_picked() -> None:
    made = rig("{type: watched}")
    watched(made).during = lambda: made.pool.set_endpoints([endpoint(1), endpoint(2)])
    session, _ = made.send()
    assert session.destination in (target(1), target(2))
    made.finish(session)
    watched(made).during = lambda: made.pool.set_endpoints([])
    session, (reply,) = made.send()
    assert (session.destination, reply.immediate_response.status.code) == ("", 503)
    session.close(made.now_ns)
    assert made.engine.in_flight == 0


def test_an_endpoint_replaced_during_the_call_is_another_one() -> None:
    made = rig("{type: watched}", count=1)
    replaced = iter([endpoint(1, name="another")])
    watched(made).during = lambda: [made.pool.set_endpoints([fresh]) for fresh in replaced]
    session, replies = made.send()
    if session.destination:  # asked again about the new one
        assert len(watched(made).calls) == 2
    else:
        assert replies[0].immediate_response.status.code == 503
    assert made.pick() == target(1)
