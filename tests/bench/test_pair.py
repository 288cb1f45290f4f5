"""When a difference in time is one, and when it is the machine's."""

import itertools

import pytest

from benchmarks.callgrind import CountingFailed
from benchmarks.pair import ORDERS, Ratios, chosen, in_turns


@pytest.mark.parametrize(
    ("ab", "aa", "verdict"),
    [
        ([1.2, 1.21, 1.19], [1.0, 1.01, 0.99], "slower"),
        ([1.09, 1.09, 1.09], [1.0, 1.0, 1.0], "same"),
        ([1.2, 1.2, 1.2], [0.97, 1.0, 1.03], "no verdict"),
        ([1.11, 1.11, 1.11], [1.0, 1.0, 1.049], "slower"),
        ([0.8, 0.81, 0.8], [1.0, 1.01, 1.0], "faster"),
        ([1.0, 1.5, 1.0], [1.0, 1.0, 1.0], "same"),
        ([1.2, 1.2, 1.2], [1.08, 1.08, 1.08], "no verdict"),
        ([1.2], [0.98], "slower"),
    ],
)
def test_verdicts(ab: list[float], aa: list[float], verdict: str) -> None:
    assert Ratios("a", ab, aa).verdict == verdict


def test_nobody_comes_twice_running_and_all_orders_come() -> None:
    places = [place for order in (*ORDERS, ORDERS[0]) for place in order]
    assert all(one != other for one, other in itertools.pairwise(places))
    assert len(set(ORDERS)) == 6


class Scripted:
    """Something that takes as long as it is told."""

    def __init__(self, *taken: int) -> None:
        self.taken = list(taken)

    def run(self, times: int) -> int:
        return self.taken.pop(0)


def test_the_least_of_each_counts() -> None:
    runners = [Scripted(5, 3), Scripted(9, 8), Scripted(2, 4)]
    assert in_turns(runners, 1, rounds=2) == [3, 8, 2]  # type: ignore[arg-type]


def test_a_pattern_for_nothing_is_an_error() -> None:
    assert {case.name.partition(":")[0] for case in chosen(["hashing:*"])} == {"hashing"}
    with pytest.raises(CountingFailed, match="no case is called nonsense"):
        chosen(["nonsense"])
