"""Rate limits: what is reserved, refused, charged and given back, by a process alone and by one that asks a store."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker._core.quotas import Hold, Quota
from tests.model import quotas as model
from tests.model.counters import SECOND_NS
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

REQUESTS, INPUT, OUTPUT, TOTAL = (1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 1), (0, 1, 1, 1)
MINUTE_NS = 60 * SECOND_NS
KEY = b"x-api-key"
Rule = dict[str, Any]


def by_key(*limits: model.Limit, name: str = "by-key", **more: Any) -> Rule:
    return {"name": name, "source": ("header", KEY.decode()), "tiers": [list(limits)], "default": 0, **more}


def quota_of(*rules: Rule, counters: int = 1000) -> Quota:
    quota = Quota(seed=1, counters=counters)
    quota.set_rules(rules)
    return quota


def held(quota: Quota, key: bytes = b"a") -> Hold:
    hold = quota.hold([(KEY, key)] if key else [])
    assert hold is not None
    return hold


def ask(
    quota: Quota, key: bytes = b"a", *, input: int = 0, output: int = 0, now_ns: int = 0, name: bytes = b"m"
) -> str:
    """What a request is told that goes, and uses what it said."""
    hold = held(quota, key)
    said = hold.reserve(name, input, output, now_ns)
    if said == "ok":
        hold.settle(input, output, now_ns)
    return said


def test_without_rules_there_is_nothing_to_hold() -> None:
    quota = Quota(seed=1)
    assert quota.hold([(KEY, b"a")]) is None
    quota.set_rules([by_key(("minute", 1, REQUESTS))])
    quota.set_rules([])
    assert quota.hold([(KEY, b"a")]) is None


def test_each_key_has_its_own_count() -> None:
    quota = quota_of(by_key(("minute", 2, REQUESTS)))
    assert [ask(quota, key) for key in (b"a", b"a", b"b", b"a", b"b", b"b")] == ["ok"] * 3 + ["limit", "ok", "limit"]
    assert ask(quota, now_ns=MINUTE_NS) == "ok"


def test_exact_to_the_token() -> None:
    """The limit is reached by requests whose usage is known, to the last token and not one further."""
    quota = quota_of(by_key(("minute", 1000, TOTAL)))
    assert ask(quota, input=700, output=299) == "ok"
    assert ask(quota, input=1, output=1) == "limit"
    assert ask(quota, input=1) == "ok"
    assert ask(quota) == "limit", "nothing is left, whatever it asks for"
    (tally,) = quota.tallies()
    assert (tally["requests"], tally["rejected"], tally["input"] + tally["output"]) == (2, 2, 1000)


def test_what_was_not_used_is_given_back() -> None:
    quota = quota_of(by_key(("minute", 100, TOTAL)))
    first, second = held(quota), held(quota)
    assert first.reserve(b"m", 40, 60, 0) == "ok"
    assert second.reserve(b"m", 1, 0, 0) == "limit"
    first.settle(40, 10, 1)
    assert held(quota).reserve(b"m", 10, 41, 2) == "limit"
    assert ask(quota, input=10, output=40, now_ns=2) == "ok"


def test_what_was_used_beyond_the_estimate_is_charged() -> None:
    quota = quota_of(by_key(("minute", 100, TOTAL)))
    hold = held(quota)
    assert hold.reserve(b"m", 10, 0, 0) == "ok"
    hold.settle(10, 500, 1)
    assert ask(quota, input=1, now_ns=2) == "limit"
    assert ask(quota, input=100, now_ns=MINUTE_NS) == "ok"


def test_a_request_that_does_not_go_costs_nothing() -> None:
    quota = quota_of(by_key(("minute", 1, REQUESTS), ("minute", 10, TOTAL)))
    hold = held(quota)
    assert hold.reserve(b"m", 10, 0, 0) == "ok"
    hold.give_back(0)
    assert ask(quota, input=10) == "ok"


def test_all_limits_or_none() -> None:
    quota = quota_of(by_key(("minute", 5, REQUESTS)), by_key(("minute", 10, TOTAL), name="tokens"))
    assert ask(quota, input=11) == "limit"
    assert [ask(quota, input=2) for _ in range(6)] == ["ok"] * 5 + ["limit"]


def test_over_the_end_of_a_window() -> None:
    """The window it was let go in is charged; what it used beyond its estimate is, when it is known."""
    quota = quota_of(by_key(("minute", 100, TOTAL)))
    less, more = held(quota), held(quota)
    assert less.reserve(b"m", 50, 0, 0) == more.reserve(b"m", 50, 0, 0) == "ok"
    less.settle(10, 0, MINUTE_NS)
    assert held(quota).reserve(b"m", 100, 0, MINUTE_NS + 1) == "ok"
    more.settle(50, 30, 2 * MINUTE_NS)
    assert ask(quota, input=71, now_ns=2 * MINUTE_NS) == "limit"
    assert ask(quota, input=70, now_ns=2 * MINUTE_NS) == "ok"


def test_windows_begin_by_the_wall_clock() -> None:
    quota = quota_of(by_key(("minute", 1, REQUESTS)))
    quota.set_clock(59 * SECOND_NS)
    hold = held(quota)
    hold.reserve(b"m", 0, 0, 0)
    assert hold.shown(0)["requests"] == {"limit": 1, "remaining": 0, "reset_s": 1.0}
    assert [ask(quota, now_ns=at) for at in (SECOND_NS - 1, SECOND_NS)] == ["limit", "ok"]


def test_named_keys_have_limits_of_their_own() -> None:
    tiers = [[("minute", 1, REQUESTS)], [("minute", 2, REQUESTS)], []]
    keys = {"gold": 1, "free of limits": 2}
    quota = quota_of(by_key(name="tiers", tiers=tiers, keys=keys, absent=0) | {"tiers": tiers})
    assert [ask(quota, b"gold") for _ in range(3)] == ["ok", "ok", "limit"]
    assert [ask(quota, b"someone") for _ in range(2)] == ["ok", "limit"]
    assert [ask(quota, b"") for _ in range(2)] == ["ok", "limit"]
    assert [ask(quota, b"free of limits") for _ in range(9)] == ["ok"] * 9


def test_requests_without_a_key_go_free_unless_it_is_said() -> None:
    quota = quota_of(by_key(("minute", 0, REQUESTS)))
    assert (ask(quota, b""), ask(quota, b"a")) == ("ok", "limit")


def test_models() -> None:
    quota = quota_of(
        by_key(("minute", 1, REQUESTS), name="small", models=["small"]),
        by_key(("minute", 2, REQUESTS), name="each", per_model=True),
    )
    assert [ask(quota, name=b"small") for _ in range(2)] == ["ok", "limit"]
    assert [ask(quota, name=b"large") for _ in range(3)] == ["ok", "ok", "limit"]
    assert [ask(quota, name=b"") for _ in range(3)] == ["ok", "ok", "limit"], "requests that name no model"


def test_a_rule_for_all_together() -> None:
    quota = quota_of({"name": "all", "tiers": [[("hour", 2, REQUESTS)]], "default": 0})
    assert [ask(quota, key) for key in (b"a", b"b", b"")] == ["ok", "ok", "limit"]


def test_tokens_cost_by_weight() -> None:
    quota = quota_of(by_key(("minute", 10, (0.5, 1, 0.1, 2.5))))
    hold = held(quota)
    assert hold.reserve(b"m", 2, 3, 0) == "ok"
    assert hold.shown(0)["tokens"]["remaining"] == 0  # 10 - 0.5 - 2 - 7.5
    hold.settle(2, 1, 0, cached=1)  # 0.5 + 1 + 0.1 + 2.5
    assert held(quota).reserve(b"m", 6, 0, 0) == "limit"
    assert ask(quota, input=5) == "ok"


def test_the_limit_that_is_waited_for_longest_is_the_one_told() -> None:
    quota = quota_of(by_key(("minute", 1, REQUESTS), ("day", 5, TOTAL)))
    assert ask(quota, input=5) == "ok"
    hold = held(quota)
    assert (hold.reserve(b"m", 1, 0, 0), hold.refused) == ("limit", ("by-key", "day", 5.0))
    assert hold.shown(0) == {
        "requests": {"limit": 1, "remaining": 0, "reset_s": 60.0},
        "tokens": {"limit": 5, "remaining": 0, "reset_s": 86400.0},
    }


def test_counters_outlast_edits() -> None:
    quota = quota_of(by_key(("minute", 2, REQUESTS)))
    open_hold = held(quota)
    assert open_hold.reserve(b"m", 0, 0, 0) == "ok"
    quota.set_rules([by_key(("minute", 3, REQUESTS)), by_key(("hour", 1, REQUESTS), name="new")])
    assert [ask(quota), ask(quota)] == ["ok", "limit"]
    open_hold.give_back(0)
    quota.set_rules([by_key(("minute", 2, REQUESTS))])
    assert [ask(quota) for _ in range(2)] == ["ok", "limit"]
    quota._check()


def test_a_key_without_room_is_not_free() -> None:
    quota = quota_of(by_key(("minute", 2, REQUESTS)), counters=1)
    assert ask(quota, b"a") == "ok"
    assert [ask(quota, key) for key in (b"b", b"c", b"d")] == ["ok", "ok", "limit"]
    assert [ask(quota, b"a") for _ in range(2)] == ["ok", "limit"]
    assert quota.figures["crowded"] == 3
    assert [ask(quota, b"b", now_ns=MINUTE_NS) for _ in range(3)] == ["ok", "ok", "limit"]


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def entry(key: bytes, value: bytes) -> bytes:
    return field(1, field(1, key) + field(2, value))


def metadata(namespace: bytes, value: bytes, *path: bytes) -> bytes:
    """filter_metadata[namespace] with the Value behind a path of structs."""
    for step in reversed(path[1:]):
        value = field(5, entry(step, value))
    return entry(namespace, entry(path[0], value))


TEXT = field(3, b"tenant-1")


@pytest.mark.parametrize(
    ("given", "is_found"),
    [
        (metadata(b"jwt", TEXT, b"payload", b"sub"), True),
        (metadata(b"jwt", field(6, field(1, TEXT)), b"payload", b"sub"), True),
        (metadata(b"jwt", field(6, b""), b"payload", b"sub"), False),
        (metadata(b"jwt", b"\x20\x01", b"payload", b"sub"), False),
        (metadata(b"jwt", TEXT, b"payload", b"other"), False),
        (metadata(b"jwt", TEXT, b"payload"), False),
        (metadata(b"other", TEXT, b"payload", b"sub"), False),
        (b"\x0a\xff", False),
        (b"", False),
    ],
    ids=[
        "text",
        "a list",
        "an empty list",
        "a flag",
        "another claim",
        "a shorter path",
        "another filter",
        "cut",
        "none",
    ],
)
def test_keys_from_claims(given: bytes, is_found: bool) -> None:
    source = ("claim", "jwt", ("payload", "sub"))
    rule = {"name": "r", "source": source, "tiers": [[("minute", 0, REQUESTS)], []], "default": 0, "absent": 1}
    hold = quota_of(rule).hold((), given)
    assert hold is not None
    assert hold.reserve(b"m", 0, 0, 0) == ("limit" if is_found else "ok")


@pytest.mark.parametrize("value", [b"Bearer a", b"bearer a", b"BEARER a", b"a"])
def test_a_bearer_token_is_the_key(value: bytes) -> None:
    quota = quota_of(by_key(keys={"a": 0, "Bearer ": 0, "Bearer": 0}, tiers=[[("minute", 0, REQUESTS)]], default=None))
    assert ask(quota, value) == "limit"
    assert [ask(quota, other) for other in (b"Bearer b", b"Basic a", b"Bearer  a", b"bearera")] == ["ok"] * 4
    assert [ask(quota, cut) for cut in (b"Bearer", b"Bearer ")] == ["limit"] * 2, "as they stand"


def test_the_first_header_of_a_name_counts() -> None:
    quota = quota_of(by_key(("minute", 1, REQUESTS), keys={"a": 0}) | {"default": None})
    hold = quota.hold([(b"other", b"a"), (KEY, b"b"), (KEY, b"a")])
    assert hold is not None and [hold.reserve(b"m", 0, 0, 0), ask(quota), ask(quota)] == ["ok", "ok", "limit"]


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        ([by_key(("week", 1, REQUESTS))], ValueError, "window"),
        ([by_key(("minute", -1, REQUESTS))], ValueError, "amount"),
        ([by_key(("minute", 1 << 53, REQUESTS))], ValueError, "amount"),
        ([by_key(("minute", 1, (0, 0, 0, 0)))], ValueError, "price"),
        ([by_key(("minute", 1, (0, -1, 0, 1)))], ValueError, "price"),
        ([by_key(("minute", 1, REQUESTS), ("minute", 2, REQUESTS))], ValueError, "twice"),
        ([by_key(("minute", 1, REQUESTS))] * 2, ValueError, "one name"),
        ([by_key(("minute", 1, REQUESTS), name="n" * 64)], ValueError, "name"),
        ([by_key(("minute", 1, REQUESTS)) | {"default": 1}], ValueError, "no tier"),
        ([by_key(("minute", 1, REQUESTS)) | {"source": ("claim", "a", ())}], ValueError, "steps"),
        ([by_key(("minute", 1, REQUESTS), name=str(i)) for i in range(17)], OverflowError, "16 limits"),
        ([by_key(name=str(i)) for i in range(256)], OverflowError, "255 rules"),
        ([by_key(name=str(i)) | {"source": ("header", str(i))} for i in range(9)], OverflowError, "8 places"),
    ],
)
def test_what_no_rules_can_be_changes_nothing(rules: list[Rule], error: type[Exception], text: str) -> None:
    quota = quota_of(by_key(("minute", 1, REQUESTS)))
    with pytest.raises(error, match=text):
        quota.set_rules(rules)
    assert [ask(quota), ask(quota)] == ["ok", "limit"]
    quota._check()


# --- with a store ---


def with_store(*rules: Rule, fallback: str = "local") -> Quota:
    quota = quota_of(*rules)
    quota.set_store(True, fallback=fallback)
    return quota


def test_a_store_is_asked_and_told() -> None:
    quota = with_store(by_key(("minute", 10, REQUESTS), ("day", 1000, TOTAL)))
    hold = held(quota)
    assert (hold.reserve(b"m", 30, 20, 0), hold.verdict(0), quota.is_due) == ("waits", "waits", True)
    ((ticket, charges),) = quota.asked(5)
    assert [charge[1:] for charge in charges] == [(60_000, 1000, 10_000), (86_400_000, 50_000, 1_000_000)]
    assert not quota.is_due
    assert quota.answer(ticket, -1, [4000, 50_000], [120_000, 86_400_000], 100_000, 7)
    assert hold.verdict(7) == "ok"
    assert hold.shown(7) == {
        "requests": {"limit": 10, "remaining": 6, "reset_s": 20.0},
        "tokens": {"limit": 1000, "remaining": 950, "reset_s": 86_300.0},
    }
    hold.settle(30, 25, 9)
    assert quota.settled(5) == [(charges[1][0], 86_400_000, 86_400_000, 5000)]
    assert quota.figures["holds"] == 0


def test_a_store_refuses() -> None:
    quota = with_store(by_key(("minute", 10, REQUESTS), ("day", 1000, TOTAL)))
    hold = held(quota)
    hold.reserve(b"m", 30, 20, 0)
    ((ticket, _),) = quota.asked(5)
    assert quota.answer(ticket, 1, [9000, 990_000], [120_000, 86_400_000], 100_000, 0)
    assert (hold.verdict(0), hold.refused) == ("limit", ("by-key", "day", 1000.0))
    hold.give_back(0)
    assert quota.settled(5) == []
    assert not quota.answer(ticket, -1, [0, 0], [0, 0], 0, 0), "an answer counts once"


def test_a_request_that_is_gone_before_the_answer_is_given_back() -> None:
    quota = with_store(by_key(("minute", 10, REQUESTS)))
    gone, asked = held(quota), held(quota)
    for hold in (gone, asked):
        hold.reserve(b"m", 0, 0, 0)
    gone.give_back(0)
    ((ticket, charges),) = quota.asked(5)  # the other was never asked for
    asked.give_back(0)
    assert quota.answer(ticket, -1, [1000], [60_000], 0, 0)
    assert quota.settled(5) == [(charges[0][0], 60_000, 60_000, -1000)]
    quota._check()
    assert quota.figures["holds"] == 0


@pytest.mark.parametrize(("fallback", "said"), [("failOpen", "ok"), ("failClosed", "unavailable"), ("local", "ok")])
def test_a_store_that_does_not_answer(fallback: str, said: str) -> None:
    quota = with_store(by_key(("minute", 1, REQUESTS)), fallback=fallback)
    hold = held(quota)
    assert hold.reserve(b"m", 0, 0, 0) == "waits"
    ((ticket, _),) = quota.asked(5)
    quota.fail(ticket)
    quota.set_store(True, is_reachable=False, fallback=fallback)
    again = {"failOpen": "ok", "failClosed": "unavailable", "local": "limit"}[fallback]
    assert (hold.verdict(0), ask(quota)) == (said, again)
    quota.set_store(True, fallback=fallback)
    assert held(quota).reserve(b"m", 0, 0, 0) == "waits"
    if fallback != "local":
        assert quota.tallies()[0]["unavailable"] == 2


def test_alone_it_goes_on_from_what_the_store_said_last() -> None:
    quota = with_store(by_key(("minute", 3, REQUESTS)))
    hold = held(quota)
    hold.reserve(b"m", 0, 0, 0)
    ((ticket, _),) = quota.asked(1)
    quota.answer(ticket, -1, [2000], [60_000], 0, 0)
    quota.set_store(True, is_reachable=False)
    assert [ask(quota), ask(quota)] == ["ok", "limit"]


def test_settlements_are_bounded() -> None:
    quota = Quota(seed=1, most_settling=1)
    quota.set_rules([by_key(("minute", 10, REQUESTS))])
    quota.set_store(True)
    holds = [held(quota) for _ in range(3)]
    for hold in holds:
        hold.reserve(b"m", 0, 0, 0)
    for ticket, _ in quota.asked(3):
        quota.answer(ticket, -1, [1000], [60_000], 0, 0)
    for hold in holds:
        hold.give_back(0)
    assert (len(quota.settled(9)), quota.figures["lost"]) == (1, 2)


def test_what_cannot_be_answered() -> None:
    quota = with_store(by_key(("minute", 10, REQUESTS)))
    hold = held(quota)
    hold.reserve(b"m", 0, 0, 0)
    ((ticket, _),) = quota.asked(1)
    for refused, used in ((1, [0]), (-1, []), (-1, [0, 0])):
        with pytest.raises(ValueError, match="answer"):
            quota.answer(ticket, refused, used, used, 0, 0)
    assert not quota.answer(ticket + (1 << 32), -1, [0], [0], 0, 0)
    assert not quota.answer(99, -1, [0], [0], 0, 0)
    quota.fail(99)
    with pytest.raises(ValueError, match="fallback"):
        quota.set_store(True, fallback="never")
    hold.give_back(0)
    with pytest.raises(ValueError, match="settled"):
        hold.give_back(0)


# --- against the model ---

RULES: list[list[Rule]] = [
    [by_key(("minute", 3, REQUESTS), ("minute", 20, TOTAL), absent=0)],
    [by_key(("minute", 5, REQUESTS), ("second", 8, (1, 1, 0.5, 2)), per_model=True)],
    [
        by_key(("minute", 3, REQUESTS), name="a", models=["m"], keys={"a": 0}) | {"default": None},
        by_key(("second", 9, TOTAL), name="by-key", absent=0),
        {"name": "all", "tiers": [[("hour", 40, OUTPUT), ("minute", 40, INPUT)]], "default": 0},
    ],
]


class Machine(RuleBasedStateMachine):
    """With room for all counters core and model agree; without, whoever the model refuses the core refuses, too."""

    ROOM = 1000

    def __init__(self) -> None:
        super().__init__()
        self.core, self.model = Quota(seed=3, counters=self.ROOM), model.Quota()
        self.now_ns = 0
        self.holds: list[tuple[Hold, model.Hold]] = []
        self.set_rules(0)

    @rule(which=st.integers(0, len(RULES) - 1))
    def set_rules(self, which: int) -> None:
        self.core.set_rules(RULES[which])
        self.model.rules = RULES[which]

    @rule(ns=st.sampled_from((1, SECOND_NS, 59 * SECOND_NS, MINUTE_NS)))
    def wait(self, ns: int) -> None:
        self.now_ns += ns

    @rule(key=st.sampled_from((b"", b"a", b"b")), name=st.sampled_from((b"", b"m", b"n")),
          input=st.integers(0, 9), output=st.integers(0, 9))  # fmt: skip
    def reserve(self, key: bytes, name: bytes, input: int, output: int) -> None:
        core = self.core.hold([(KEY, key)] if key else [])
        slow = self.model.hold({KEY: key} if key else {})
        assert core is not None
        said, expected = core.reserve(name, input, output, self.now_ns), ""
        expected = self.model.reserve(slow, name, input, output, self.now_ns)
        self.compare(said, expected, slow)
        if said == "ok":
            self.holds.append((core, slow))

    def compare(self, said: str, expected: str, slow: model.Hold) -> None:
        assert said == expected

    @rule(data=st.data(), input=st.integers(0, 12), output=st.integers(0, 12), cached=st.integers(0, 12))
    def settle(self, data: st.DataObject, input: int, output: int, cached: int) -> None:
        if self.holds:
            core, slow = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
            core.settle(input, output, self.now_ns, cached=cached)
            self.model.settle(slow, input, output, cached, self.now_ns)

    @rule()
    def give_back(self) -> None:
        if self.holds:
            core, slow = self.holds.pop()
            core.give_back(self.now_ns)
            self.model.give_back(slow, self.now_ns)

    @invariant()
    def holds_together(self) -> None:
        self.core._check()
        assert self.core.figures["holds"] == len(self.holds)


class CrowdedMachine(Machine):
    ROOM = 1

    def compare(self, said: str, expected: str, slow: model.Hold) -> None:
        assert (said, expected) != ("ok", "limit"), "a key without a counter was free"
        if (said, expected) == ("limit", "ok"):
            self.model.give_back(slow, self.now_ns)


Machine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
CrowdedMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestQuota = Machine.TestCase
TestCrowded = CrowdedMachine.TestCase


def churn() -> None:
    quota = with_store(*RULES[2])
    holds = [held(quota, bytes([65 + i])) for i in range(9)]
    for hold in holds:
        hold.reserve(b"m", 1, 1, 0)
    quota.set_rules(RULES[0])
    for ticket, charges in quota.asked(5):
        quota.answer(ticket, -1, [1000] * len(charges), [60_000] * len(charges), 0, 0)
    for hold in holds[:7]:
        hold.settle(1, 0, 0)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 10
