"""When requests come, in open and closed loops."""

from dataclasses import replace

import pytest

from picker.sim.arrivals import Arrivals
from picker.sim.asked import Asked, Load

LOAD = Load(
    "small",
    (
        Asked(0, 1.0, 10, 10),
        Asked(1, 2.0, 10, 10, after=0, think_s=5.0),
        Asked(2, 3.0, 10, 10),
        Asked(3, 100.0, 10, 10, after=1, think_s=1.0),
        Asked(4, 101.0, 10, 10),
    ),
    64,
)


def test_an_open_loop_keeps_its_times() -> None:
    arrivals = Arrivals(LOAD)
    assert [(at_s, one.index) for at_s, one in arrivals.first()] == [(1.0, 0), (3.0, 2), (101.0, 4)]


def test_a_turn_comes_when_the_last_was_answered_and_thought_about_but_not_before_its_time() -> None:
    arrivals = Arrivals(LOAD)
    list(arrivals.first())
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[0], 4.0)] == [(9.0, 1)]
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[1], 10.0)] == [(100.0, 3)]
    assert list(arrivals.then(LOAD.asked[2], 11.0)) == []


def test_a_closed_loop_holds_as_many_conversations_as_it_has_clients() -> None:
    arrivals = Arrivals(LOAD, clients=1)
    assert [(at_s, one.index) for at_s, one in arrivals.first()] == [(0.0, 0)]
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[0], 2.0)] == [(7.0, 1)]
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[1], 8.0)] == [(9.0, 3)]
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[3], 12.0)] == [(12.0, 2)]
    assert [(at_s, one.index) for at_s, one in arrivals.then(LOAD.asked[2], 13.0)] == [(13.0, 4)]
    assert list(arrivals.then(LOAD.asked[4], 14.0)) == []


def test_more_clients_than_conversations_ask_at_once() -> None:
    assert [one.index for _, one in Arrivals(LOAD, clients=9).first()] == [0, 2, 4]


def test_nobody_waits_for_who_comes_later() -> None:
    wrong = replace(LOAD, asked=(replace(LOAD.asked[0], after=1), *LOAD.asked[1:]))
    with pytest.raises(ValueError, match="request 0 at place 0 comes after request 1"):
        Arrivals(wrong)


def test_a_part_of_a_load_begins_at_its_own_second_zero() -> None:
    half = LOAD.part(0.02, 1.0)
    assert [(one.index, one.after) for one in half.asked] == [(0, -1), (1, -1), (2, -1)]
    assert half.asked[0].at_s == pytest.approx(3.0 - 2.02)
    whole = LOAD.part(0.0, 1.0)
    assert whole == LOAD
    assert len(LOAD.part(0.0, 0.5).asked) + len(LOAD.part(0.5, 1.0).asked) == 5
