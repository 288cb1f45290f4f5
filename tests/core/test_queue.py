import itertools
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from picker._core.queue import EDF, FCFS, ROUND_ROBIN, SLO, STRICT, TOKENS, Queue

NEVER = 2**63 - 1
TICK = 10_000_000
PLAIN = (FCFS, TOKENS, 0, 0, 0)


def push(queue: Queue, key: int, priority: int = 0, flow: int = 0, **other: Any) -> None:
    """One of 10 bytes and one token that never expires, unless `other` says otherwise."""
    said = {"group": 0, "size": 10, "cost": 1, "slo_ns": NEVER, "expires_ns": NEVER, "now_ns": 0, **other}
    queue.push(key, priority, flow, **said)


def by(order: int = FCFS, fairness: int = TOKENS, **caps: int) -> Queue:
    """A queue whose bands have such rules."""
    queue = Queue(10_000)
    rules = (order, fairness, caps.get("requests", 0), caps.get("size", 0), caps.get("ttl_ns", 0))
    queue.set_rules([], rules, rules)
    return queue


# --- bands and orders ---


def test_a_higher_band_goes_first() -> None:
    queue = Queue(5)
    for key, priority in enumerate((0, -(2**31), 2**31 - 1, 7, 0)):
        push(queue, key, priority)
    assert [row[0] for row in queue.bands()] == [2**31 - 1, 7, 0, -(2**31)]
    assert queue.dispatch(9) == [2, 3, 0, 4, 1]
    assert (len(queue), queue.bytes, queue.bands(), queue.peek()) == (0, 0, [], None)


@pytest.mark.parametrize(("order", "expected"), [(FCFS, [0, 1, 2, 3]), (EDF, [2, 0, 1, 3]), (SLO, [3, 1, 0, 2])])
def test_orders(order: int, expected: list[int]) -> None:
    """Without a time to expire, or an objective, one is last; of equals the first to come is first."""
    queue = by(order)
    for key, (expires_ns, slo_ns) in enumerate(((90, NEVER), (90, 7), (80, NEVER), (NEVER, 5))):
        push(queue, key, expires_ns=expires_ns, slo_ns=slo_ns)
    assert queue.dispatch(4) == expected


def test_the_bands_time_to_live_is_its_deadline() -> None:
    queue = by(EDF, ttl_ns=100)
    push(queue, 0, now_ns=5)
    push(queue, 1, now_ns=6, expires_ns=99)
    push(queue, 2, now_ns=7, expires_ns=500)
    push(queue, 3, now_ns=8, expires_ns=NEVER - 1)
    assert [queue.expires_ns(key) for key in range(4)] == [105, 99, 500, NEVER - 1]
    assert queue.dispatch(4) == [1, 0, 2, 3]


# --- flows ---


def backlog(queue: Queue, costs: Iterable[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Push one for each (flow, cost); who is who."""
    made = dict(enumerate(costs))
    for key, (flow, cost) in made.items():
        push(queue, key, flow=flow, cost=cost)
    return made


def test_flows_get_equal_tokens() -> None:
    queue = by()
    made = backlog(queue, [(0, 1_000_000)] * 10 + [(1, 1000)] * 5000)
    spent: Counter[int] = Counter()
    for key in queue.dispatch(5000):
        spent[made[key][0]] += made[key][1]
    assert spent[0] == 5_000_000  # not ten times as many
    assert abs(spent[0] - spent[1]) <= 1_001_000


def test_round_robin_counts_requests() -> None:
    queue = by(fairness=ROUND_ROBIN)
    made = backlog(queue, [(0, 10**6)] * 6 + [(1, 1)] * 2 + [(2, 5)] * 3)
    assert [made[key][0] for key in queue.dispatch(20)] == [0, 1, 2, 0, 1, 2, 0, 2, 0, 0, 0]


def test_strict_knows_no_flows() -> None:
    queue = by(EDF, STRICT)
    for key in range(20):
        push(queue, key, flow=key % 7, cost=10**9, expires_ns=1000 - key)
    assert queue.dispatch(20) == list(range(19, -1, -1))


@pytest.mark.parametrize("fairness", [ROUND_ROBIN, TOKENS])
@pytest.mark.parametrize("seed", range(5))
def test_between_any_two_that_wait_all_the_while_the_difference_is_bounded(fairness: int, seed: int) -> None:
    """By the greatest cost of each, over any stretch of time, whoever else comes and goes: start-time fair queueing."""
    rng = random.Random(seed)
    most = {0: 1, 1: 1000, 2: 50_000}
    queue, spare, flows = by(fairness=fairness), list(range(10_000)), {}
    costs: dict[int, int] = {}
    waiting: Counter[int] = Counter()
    ahead = dict.fromkeys(itertools.combinations(most, 2), (0, 0, 0))  # (difference, its least, its greatest)
    for _ in range(3000):
        for flow in [*most, *rng.choices(range(3, 40), k=rng.randrange(3))]:
            if flow >= 3 or waiting[flow] < 2:
                key = spare.pop()
                flows[key], costs[key] = flow, rng.randint(1, most.get(flow, 10**6))
                waiting[flow] += 1
                push(queue, key, flow=flow, cost=costs[key])
        (key,) = queue.dispatch(1)
        waiting[flows[key]] -= 1
        spare.append(key)
        for (one, other), (now, least, greatest) in ahead.items():
            cost = 1 if fairness == ROUND_ROBIN else costs[key]
            now += cost * ((flows[key] == one) - (flows[key] == other))
            ahead[one, other] = (now, min(now, least), max(now, greatest))
    for (one, other), (_, least, greatest) in ahead.items():
        assert greatest - least <= (2 if fairness == ROUND_ROBIN else most[one] + most[other])


def test_being_idle_saves_nothing_up() -> None:
    queue = by()
    backlog(queue, [(0, 10)] * 100)
    assert len(queue.dispatch(50)) == 50
    for key in range(100, 150):
        push(queue, key, flow=1, cost=10)
    assert sum(key >= 100 for key in queue.dispatch(40)) in (20, 21)  # not all forty, to catch up with fifty


def test_a_debt_does_not_go_by_being_idle() -> None:
    queue = by()
    backlog(queue, [(0, 1000)] + [(1, 10)] * 200)
    assert queue.dispatch(1) == [0]
    push(queue, 300, flow=0, cost=1000)  # back at once
    assert queue.dispatch(150) == [*range(1, 102), 300, *range(102, 150)]  # of equals, the first to come


def test_who_was_cancelled_or_expired_is_not_charged() -> None:
    queue = by(fairness=ROUND_ROBIN)
    made = backlog(queue, [(0, 1)] * 5 + [(1, 1)] * 5)
    for key in (0, 1, 2):
        queue.remove(key)
    assert [made[key][0] for key in queue.dispatch(9)] == [0, 1, 0, 1, 1, 1, 1]


# --- rounds ---


def test_a_skipped_lane_is_left_out_of_the_round_only() -> None:
    queue = by()
    push(queue, 0, flow=1)
    push(queue, 1, flow=1)
    push(queue, 2, flow=1, group=9)
    push(queue, 3, flow=2)
    queue.begin()
    order = []
    while (key := queue.peek()) is not None:
        order.append(key)
        queue.skip(key)
        queue._check()
    assert order == [0, 2, 3]  # those of other groups, and other flows, are not held up; the one behind it is
    push(queue, 4, flow=3)
    assert queue.peek() == 4
    queue.begin()
    assert queue.peek() == 0


def test_who_was_skipped_goes_first_when_it_can() -> None:
    """And is then where the others are: the turns it could not take are not made up for."""
    queue = by()
    backlog(queue, [(0, 10)] * 30 + [(1, 10)] * 100)
    for _ in range(60):
        queue.begin()
        key = queue.peek()
        if key is not None and key < 30:
            queue.skip(key)
            key = queue.peek()
        assert key is not None and key >= 30
        queue.take(key)
    after = queue.dispatch(20)
    assert after[0] == 0
    assert sum(key < 30 for key in after) in (10, 11)


def test_a_blocked_group_is_left_out_of_its_band_and_those_below() -> None:
    queue = Queue(9)
    for key, (priority, flow, group) in enumerate(
        ((2, 0, 0), (1, 0, 7), (1, 1, 7), (1, 2, 0), (0, 0, 7), (0, 0, 0), (-1, 5, 7))
    ):
        push(queue, key, priority, flow, group=group)
    queue.begin()
    queue.take(0)
    assert queue.peek() == 1
    queue.block(1)
    order = []
    while (key := queue.peek()) is not None:
        order.append(key)
        queue.take(key)
    assert order == [3, 5]
    assert queue.dispatch(9) == [1, 2, 4, 6]


def test_a_large_one_waits_its_turn_and_no_longer_where_groups_are_blocked() -> None:
    """Room comes back a little at a time; small ones do not take it away from the large one for ever."""
    queue = by()
    made = backlog(queue, [(0, 100)] + [(flow, 1) for flow in range(1, 200)])
    room, order = 0, []
    while len(queue):
        room += 2
        queue.begin()
        while (key := queue.peek()) is not None:
            if made[key][1] > room:
                queue.block(key)
                continue
            room -= made[key][1]
            queue.take(key)
            order.append(key)
    assert order[0] == 0


def test_taking_skipping_and_blocking_what_is_not_next() -> None:
    queue = by()
    backlog(queue, [(0, 1)] * 3)
    queue.begin()
    queue.skip(2)  # its whole lane, however far behind it is
    assert queue.peek() is None
    queue.take(1)
    queue.block(2)
    queue._check()
    assert queue.dispatch(5) == [0, 2]


def test_does_anybody_wait_before() -> None:
    queue = Queue(3)
    push(queue, 0, 1, group=4)
    push(queue, 1, -1, group=5)
    assert queue.holds_before(1, 4) and queue.holds_before(-5, 4) and queue.holds_before(-1, 5)
    assert not queue.holds_before(2, 4) and not queue.holds_before(0, 5) and not queue.holds_before(-5, 6)
    queue.remove(0)
    assert not queue.holds_before(1, 4)


# --- caps ---


@pytest.mark.parametrize(
    ("cap", "limits", "rules"),
    [
        ("the band's requests", {}, (FCFS, TOKENS, 2, 0, 0)),
        ("the band's bytes", {}, (FCFS, TOKENS, 0, 29, 0)),
        ("requests in all", {"max_requests": 2}, PLAIN),
        ("bytes in all", {"max_bytes": 29}, PLAIN),
    ],
)
def test_caps(cap: str, limits: dict[str, int], rules: tuple[int, int, int, int, int]) -> None:
    queue = Queue(4, **limits)
    queue.set_rules([], rules, rules)
    push(queue, 0)
    push(queue, 1)
    before = queue.bands()
    with pytest.raises(OverflowError, match=f"^{cap}$"):
        push(queue, 2)
    queue._check()
    assert queue.bands() == before
    queue.remove(0)
    push(queue, 2)
    assert queue.dispatch(9) == [1, 2]


def test_bytes_are_capped_without_overflowing() -> None:
    queue = Queue(3, max_bytes=2**64 - 1)
    push(queue, 0, size=2**64 - 2)
    with pytest.raises(OverflowError, match="bytes in all"):
        push(queue, 1, size=2**64 - 1)
    push(queue, 1, size=1)
    push(queue, 2, size=0)  # brings nothing
    assert queue.bytes == 2**64 - 1


def test_bands_that_only_requests_make_are_capped() -> None:
    queue = Queue(9, bands=2)
    queue.set_rules([(priority, PLAIN) for priority in range(5)], PLAIN, PLAIN)
    push(queue, 0, 100)
    push(queue, 1, -100)
    with pytest.raises(OverflowError, match=r"^bands$"):
        push(queue, 2, 50)
    push(queue, 2, 3)
    push(queue, 3, 100)
    assert [row[0] for row in queue.bands()] == [100, 4, 3, 2, 1, 0, -100]
    assert queue.dispatch(9) == [0, 3, 2, 1]
    assert [row[0] for row in queue.bands()] == [4, 3, 2, 1, 0]
    push(queue, 2, 50)


def test_flows_beyond_the_cap_share_one() -> None:
    queue = Queue(100, flows=2)
    for key in range(60):
        push(queue, key, flow=key % 6, name=f"tenant-{key % 6}".encode())
    rows = {row[1]: row[2:5] for row in queue.flows()}
    assert rows == {0: (b"tenant-0", 10, 100), 1: (b"tenant-1", 10, 100), None: (b"", 40, 400)}
    assert Counter(min(key % 6, 2) for key in queue.dispatch(15)) == {0: 5, 1: 5, 2: 5}
    queue.dispatch(100)
    push(queue, 0, flow=77)
    assert queue.flows()[0][1] == 77


def test_idle_flows_make_room_for_new_ones() -> None:
    queue = Queue(1000, flows=10)
    push(queue, 999, flow=10**6)  # somebody waits all the while, so that flows that are ahead are remembered
    for key in range(500):
        push(queue, key, flow=key, cost=5)
        queue.take(key)
        queue._check()
    push(queue, 500, flow=500)
    assert {row[1] for row in queue.flows()} == {10**6, 500}


def test_names_are_cut() -> None:
    queue = Queue(2)
    push(queue, 0, flow=1, name=b"x" * 100)
    push(queue, 1, flow=2)
    assert {row[2] for row in queue.flows()} == {b"x" * 64, b""}


# --- time ---


def test_who_has_waited_too_long_is_told_within_a_tick() -> None:
    queue = by(ttl_ns=6 * TICK)
    for key in range(3):
        push(queue, key, now_ns=key * TICK + 1)
    assert queue.expired(6 * TICK) is None
    assert (queue.expired(7 * TICK), queue.expired(7 * TICK)) == (0, None)
    assert {queue.expired(NEVER), queue.expired(NEVER), queue.expired(NEVER)} == {1, 2, None}
    assert (len(queue), queue.bytes) == (0, 0)


def test_a_clock_that_goes_back_stands_still() -> None:
    queue = Queue(2, now_ns=100)
    push(queue, 0, now_ns=70, expires_ns=NEVER)
    assert queue.bands()[0][6] == 100
    assert queue.expired(5 * TICK) is None
    push(queue, 1, now_ns=TICK, expires_ns=2 * TICK)
    assert queue.expired(TICK) == 1


def test_far_times() -> None:
    queue = by(ttl_ns=NEVER)
    push(queue, 0, now_ns=TICK)
    push(queue, 1, expires_ns=NEVER - 1, now_ns=TICK)
    assert [queue.expires_ns(key) for key in (0, 1)] == [NEVER, NEVER - 1]
    assert queue.expired(NEVER - TICK) is None
    assert queue.dispatch(2) == [0, 1]


def test_one_that_has_left_may_come_again() -> None:
    queue = by(ttl_ns=TICK)
    for verb in (queue.take, queue.remove):
        push(queue, 0)
        verb(0)
    push(queue, 0)
    assert queue.expired(TICK) == 0
    queue.remove(0)
    push(queue, 0)
    assert queue.any() == 0


# --- rules that change ---


def test_other_rules_sort_those_who_wait_anew() -> None:
    queue = by(ttl_ns=1000)
    for key in range(4):
        push(queue, key, flow=key % 2, slo_ns=9 - key)
    queue.set_rules([(0, (SLO, STRICT, 1, 0, 5))], PLAIN, PLAIN)
    queue._check()
    assert queue.bands() == [(0, True, (SLO, STRICT, 1, 0, 5), 4, 40, 2, 0)]
    with pytest.raises(OverflowError, match="the band's requests"):  # which those who were there before may break
        push(queue, 4)
    assert queue.dispatch(2) == [3, 2]
    queue.set_rules([], PLAIN, PLAIN)
    queue._check()
    assert [queue.expires_ns(key) for key in range(4)] == [1000] * 4  # as they were promised
    assert queue.dispatch(4) == [0, 1]


def test_a_round_goes_on_when_rules_change() -> None:
    queue = by()
    backlog(queue, [(0, 1), (1, 1)])
    queue.begin()
    queue.skip(0)
    queue.set_rules([], (EDF, STRICT, 0, 0, 0), PLAIN)
    queue._check()
    assert queue.peek() == 1
    queue.begin()
    assert queue.peek() == 0


@pytest.mark.parametrize(
    "rows",
    [
        [(0, (3, 0, 0, 0, 0))],
        [(0, (0, -1, 0, 0, 0))],
        [(0, (0, 3, 0, 0, 0))],
        [(0, (0, 0, 0, 0, -1))],
        [(1, PLAIN), (0, PLAIN), (1, PLAIN)],
    ],
)
def test_rules_that_are_none_leave_the_old(rows: list[tuple[int, tuple[int, int, int, int, int]]]) -> None:
    queue = Queue(2)
    old = [(5, (EDF, STRICT, 1, 2, 3))]
    queue.set_rules(old, PLAIN, PLAIN)
    with pytest.raises(ValueError, match="not rules of bands"):
        queue.set_rules(rows, PLAIN, PLAIN)
    with pytest.raises(ValueError, match="not rules of bands"):
        queue.set_rules([], PLAIN, (7, 0, 0, 0, 0))
    queue._check()
    assert [(row[0], row[2]) for row in queue.bands()] == old


# --- the face ---


def test_refuses_what_is_not_there() -> None:
    queue = Queue(1)
    for call in (queue.take, queue.skip, queue.block):
        with pytest.raises(ValueError, match="0 does not wait"):
            call(0)
        with pytest.raises(IndexError):
            call(1)
    queue.remove(0)
    push(queue, 0)
    with pytest.raises(ValueError, match="0 waits already"):
        push(queue, 0)
    for call in (queue.remove, queue.expires_ns):
        with pytest.raises(IndexError):
            call(1)
    with pytest.raises(OverflowError):
        push(queue, 0, 2**31)
    with pytest.raises(MemoryError):
        Queue(2**60)
