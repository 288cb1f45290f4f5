import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core.decisions import KEPT, Decisions
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations


@given(st.lists(st.sampled_from([1, 3, KEPT - 1, KEPT]) | st.none(), max_size=4))
def test_keeps_the_latest(steps: list[int | None]) -> None:
    """The model is a dict of all decisions; None clears."""
    ring = Decisions()
    known: dict[int, int] = {}
    count = 0
    for step in steps:
        if step is None:
            ring.clear()
            known.clear()
        for _ in range(step or 0):
            count += 1
            known[count] = count * 7
            assert ring.add(b"10.0.0.1:80", count * 7) == count
        ring._check()
    for number in {*range(max(0, count - KEPT - 2), count + 3), 2**64 - 1}:
        found = ring.get(number)
        assert (found is not None) == (number in known and number > count - KEPT)
        if found is not None:
            assert (found["number"], found["at_ns"], found["endpoint"]) == (number, known[number], "10.0.0.1:80")


def test_a_new_decision_knows_nothing() -> None:
    ring = Decisions()
    found = ring.get(ring.add(b"", 5))
    assert found == {
        "number": 1, "at_ns": 5, "endpoint": "", "candidates": 0, "prompt_tokens": 0, "cached_tokens": 0, "total": 0.0,
        "runner_up": None, "scores": [], "ttft_s": None, "objective": "", "priority": 0,
        "fairness_id": "", "waited_s": 0.0,
    }  # fmt: skip


def test_refuses_a_long_target() -> None:
    with pytest.raises(ValueError, match="56"):
        Decisions().add(b"x" * 57, 0)


def test_leaks_nothing() -> None:
    def each() -> None:
        ring = Decisions()
        ring.add(b"10.0.0.1:80", 1)
        ring.get(1)

    assert_flat(each, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(Decisions) == 1
