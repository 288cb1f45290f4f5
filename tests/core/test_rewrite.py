from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picker._core.engine import Engine
from picker._core.rewrite import Rewrites
from tests.model import rewrite as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, each_allocation_failing, failing_allocations

CANARY = [("canary", "llama", (("llama-v1", 90), ("llama-v2", 10)))]

NAMES = ["a", "b", "other", "é"]
TARGETS = st.lists(st.sampled_from(["x", "y", "a"]), min_size=1, max_size=3)


def weighted(targets: list[str]) -> st.SearchStrategy[list[tuple[str, int | None]]]:
    """All with a weight or none."""
    given = st.lists(st.integers(0, 3), min_size=len(targets), max_size=len(targets))
    weights = st.just([None] * len(targets)) | given
    return weights.map(lambda found: list(zip(targets, found, strict=True)))


RULES = st.lists(
    st.tuples(st.sampled_from("op"), st.none() | st.sampled_from(NAMES), TARGETS.flatmap(weighted)), max_size=5
)
ASKED = [*NAMES, "", "z", "y", "w", "v", "\ud800", "x" * 256, "x" * 257]


class Machine(RuleBasedStateMachine):
    @initialize(rules=RULES, limit=st.integers(0, 3))
    def begin(self, rules: list[model.Rule], limit: int) -> None:
        self.core, self.slow = Rewrites(rules, limit=limit), model.Rewrites(rules, limit)

    @rule(name=st.sampled_from(ASKED), random=st.integers(0, 2**64 - 1))
    def choose(self, name: str, random: int) -> None:
        asked = name.encode("utf-8", "surrogatepass")
        assert self.core.choose(asked, random) == self.slow.choose(asked, random)

    @rule(rules=RULES)
    def replace(self, rules: list[model.Rule]) -> None:
        self.core.replace(rules)
        self.slow.replace(rules)

    @rule(rules=RULES)
    def extend(self, rules: list[model.Rule]) -> None:
        self.core.extend(rules)
        self.slow.rules += rules

    @rule(rules=RULES)
    def refuse(self, rules: list[model.Rule]) -> None:
        with pytest.raises(ValueError, match=f"rule {len(rules)}: "):
            self.core.replace([*rules, ("o", "", [("x", None)])])

    @invariant()
    def agree(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.slow.in_force())
        counted: Counter[tuple[str, str, str]] = Counter()
        for name, asked, target, count in self.core.counts():
            assert count > 0
            counted[name, asked, target] += count
        assert counted == self.slow.counts + self.slow.tallies


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=20)
TestEqualsTheModel = Machine.TestCase


def shares(rules: Sequence[model.Rule], asked: bytes = b"llama", draws: int = 1000) -> Counter[bytes | None]:
    rewrites = Rewrites(rules)
    return Counter(rewrites.choose(asked, number) for number in range(draws))


def test_targets_are_drawn_by_weight() -> None:
    assert shares(CANARY) == {b"llama-v1": 900, b"llama-v2": 100}


@pytest.mark.parametrize("weight", [None, 0])
def test_without_weights_all_targets_are_alike(weight: int | None) -> None:
    rules = [("even", "llama", [(name, weight) for name in "abcd"])]
    assert shares(rules) == {b"a": 250, b"b": 250, b"c": 250, b"d": 250}


def test_a_weight_of_nought_beside_others_is_never_drawn() -> None:
    assert shares([("o", "llama", (("x", 0), ("y", 3), ("z", 0)))]) == {b"y": 1000}


def test_twins_are_one_target() -> None:
    rewrites = Rewrites([("o", "llama", (("x", 1), ("y", 2), ("x", 1)))])
    assert Counter(rewrites.choose(b"llama", number) for number in range(4)) == {b"x": 2, b"y": 2}
    assert rewrites.counts() == [("o", "llama", "x", 2), ("o", "llama", "y", 2)]


def test_the_model_s_own_rule_goes_before_the_generic_one() -> None:
    rules = [("any", None, (("x", None),)), ("own", "llama", (("y", None),)), ("late", "llama", (("z", None),))]
    rewrites = Rewrites(rules)
    assert [rewrites.choose(name, 0) for name in (b"llama", b"qwen", b"", b"llam")] == [b"y", b"x", b"x", b"x"]
    assert len(rewrites) == 2


def test_without_a_rule_nothing_is_decided() -> None:
    for rewrites in (Rewrites(), Rewrites(CANARY)):
        assert rewrites.choose(b"qwen", 0) is None
        assert rewrites.choose(b"", 0) is None
        assert rewrites.counts() == []


def test_names_that_clients_think_of_are_bounded() -> None:
    rewrites = Rewrites([("any", None, (("x", None),))], limit=2)
    for name in (b"a", b"b", b"c", b"d", b"a", b"other", b"\xed\xa0\x80", b"x" * 257):
        assert rewrites.choose(name, 0) == b"x"
    assert rewrites.counts() == [("any", "other", "x", 5), ("any", "a", "x", 2), ("any", "b", "x", 1)]


def test_counts_stay_with_what_stays() -> None:
    rewrites = Rewrites([*CANARY, ("any", None, (("x", None),))])
    for number in range(100):
        rewrites.choose(b"llama", number)
    rewrites.choose(b"qwen", 0)
    rewrites.replace([("any", None, (("w", None), ("x", None))), ("canary", "llama", (("llama-v2", None),))])
    assert rewrites.counts() == [("canary", "llama", "llama-v2", 10), ("any", "qwen", "x", 1)]
    rewrites.replace([("other-object", "llama", (("llama-v2", None),))])
    assert rewrites.counts() == []


def test_many_rules() -> None:
    rules: list[model.Rule] = [("o", f"model-{number}", ((f"target-{number}", None),)) for number in range(4096)]
    rewrites = Rewrites(rules)
    rewrites._check()
    for number in (0, 1, 4094, 4095):
        assert rewrites.choose(b"model-%d" % number, 7) == b"target-%d" % number
    with pytest.raises(OverflowError, match="at most 4096 models can have rules"):
        rewrites.replace([*rules, ("o", "more", (("x", None),))])
    assert len(rewrites) == 4096
    rewrites.extend([("o", "model-7", (("x", None),)), ("o", None, (("y", None),))])
    assert (rewrites.choose(b"model-7", 0), rewrites.choose(b"more", 0)) == (b"target-7", b"y")


def test_many_targets() -> None:
    many = [(f"t{number}", 1_000_000) for number in range(100)]
    rules: list[model.Rule] = [("o", f"m{number}", many) for number in range(163)]
    rewrites = Rewrites(rules)
    rewrites._check()
    assert rewrites.choose(b"m0", 99_999_999) == b"t99"
    with pytest.raises(OverflowError, match="16384 targets"):
        Rewrites([*rules, ("o", "more", many)])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("", "a", (("x", None),)), "rule 0: a name has 1 to 256 bytes"),
        (("é" * 129, "a", (("x", None),)), "rule 0: a name has"),
        (("o", "", (("x", None),)), "rule 0: a model has"),
        (("o", "a" * 257, (("x", None),)), "rule 0: a model has"),
        (("o", "a", (("", None),)), "rule 0: a target has"),
        (("o", "a", (("x" * 257, None),)), "rule 0: a target has"),
        (("o", "a", ()), "rule 0: a rule has 1 to 100 targets, not 0"),
        (("o", "a", tuple((str(number), None) for number in range(101))), "not 101"),
        (("o", "a", (("x", 1), ("y", None))), "either all targets have a weight or none"),
        (("o", "a", (("x", -1),)), "a weight is 0 to 1000000, not -1"),
        (("o", "a", (("x", 1_000_001),)), "not 1000001"),
        (("\ud800", "a", (("x", None),)), "rule 0: "),
    ],
)
def test_refuses_what_no_rule_can_be(bad: Any, message: str) -> None:
    rewrites = Rewrites(CANARY)
    with pytest.raises(ValueError, match=message):
        rewrites.replace([bad])
    with pytest.raises(ValueError, match=message):
        Rewrites([bad])
    assert rewrites.choose(b"llama", 0) == b"llama-v1"
    with pytest.raises(ValueError, match=message):
        rewrites.extend([bad])
    rewrites._check()
    assert len(rewrites) == 0


def test_the_engine_s_rules() -> None:
    engine = Engine(hash_seed=1)
    assert engine.rewrite_counts(0, 8) is None
    engine.set_rewrites(CANARY)
    assert engine.rewrite_counts(0, 8) == []
    with pytest.raises(ValueError, match="rule 0"):
        engine.set_rewrites([("o", "a", ())])
    assert engine.rewrite_counts(2, 8) is None
    made = Rewrites(CANARY)
    made.extend([("any", None, (("x", None),))])
    engine.set_rewrites(made)
    assert engine.rewrite_counts(3, 8) == []
    assert len(made) == 0  # the engine has them
    made._check()


def test_leaks_nothing() -> None:
    rules = [*CANARY, ("any", None, (("x", None), ("y", None)))]

    def each() -> None:
        rewrites = Rewrites(rules)
        for number in range(20):
            rewrites.choose(b"m%d" % number, number)
        rewrites.choose(b"llama", 1)
        rewrites.replace(rules)
        rewrites.replace(CANARY)
        rewrites.counts()
        with pytest.raises(ValueError, match="rule 1"):
            rewrites.replace([*CANARY, ("o", None, ())])

    assert_flat(each, calls=20)


def test_an_engine_leaks_none() -> None:
    engine = Engine(hash_seed=1)

    def each() -> None:
        engine.set_rewrites([*CANARY, ("any", None, (("x", None),))])
        engine.set_rewrites([])

    each()  # the models named have series of their own from then on
    assert_flat(each)


@debug_build_only
def test_survives_failing_allocations() -> None:
    rules = [*CANARY, ("any", None, (("x", None),))]
    assert failing_allocations(lambda: Rewrites(rules)) == 12

    def use() -> None:
        """Without memory a decision is counted as `other`, and counts may start anew; no decision goes wrong."""
        rewrites = Rewrites(rules)
        for number in range(9):
            assert rewrites.choose(b"m%d" % number, 0) == b"x"
            rewrites._check()
        assert sum(count for *_, count in rewrites.counts()) == 9
        rewrites.replace([("any", None, (("y", None), ("x", None)))])
        rewrites._check()
        assert rewrites.choose(b"m0", 0) == b"y"
        assert sum(count for *_, count in rewrites.counts()) in (10, 1)

    assert each_allocation_failing(use) > 20
