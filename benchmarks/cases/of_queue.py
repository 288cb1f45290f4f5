"""Flow control's queue: the kernel, called in a loop by the face, as the engine calls it."""

from itertools import product

from benchmarks.cases.case import Action, Case, Growth
from picker._core.queue import FCFS, SLO, STRICT, TOKENS, Queue

NEVER = 2**63 - 1
TTL_NS = 60_000_000_000
BANDS, FLOWS = 8, 5000
LOOP = 10_000
STEP_NS = 9973  # by which an objective is later when a request comes again: behind most of those who wait


def filled(bands: int, flows: int, each: int = 1, *, order: int = FCFS, fairness: int = TOKENS) -> Queue:
    """`each` requests wait of every flow in every band, of costs and objectives without an order."""
    queue = Queue(bands * flows * each, flows=bands * flows)
    rules = (order, fairness, 0, 0, TTL_NS)
    queue.set_rules([], rules, rules)
    for key, (_, flow, band) in enumerate(product(range(each), range(flows), range(bands))):
        queue.push(key, band, flow, 0, 1000, 100 + key * 7919 % 9973, key * 6007 % 9973, NEVER, key)
    return queue


def turning(bands: int, flows: int, each: int = 1, *, order: int = FCFS, fairness: int = TOKENS) -> Action:
    queue = filled(bands, flows, each, order=order, fairness=fairness)
    return lambda: queue.turn_over(LOOP, STEP_NS)


def nobody_can_go() -> Action:
    """What freed credit costs that is none of theirs: one look, however many wait."""
    queue = filled(BANDS, FLOWS)

    def look() -> None:
        queue.begin()
        key = queue.peek()
        assert key is not None
        queue.block(key)

    return look


def all_are_skipped(flows: int) -> Action:
    queue = filled(BANDS, flows)

    def look() -> None:
        queue.begin()
        while (key := queue.peek()) is not None:
            queue.skip(key)

    return look


def anybody_before() -> Action:
    """Asked of every request while anybody waits; the worst place to ask from is below all bands.

    By another group each time: lanes are found by the hash of an address, so that one chain alone says little.
    """
    queue = filled(BANDS, 100)
    return lambda: [queue.holds_before(-1, group) for group in range(1, 101)]


def coming_and_going_away() -> Action:
    """A thousand clients come and lose patience; 10,000 others wait."""
    queue = Queue(11_000, flows=5000)
    rules = (FCFS, TOKENS, 0, 0, TTL_NS)
    queue.set_rules([], rules, rules)
    for key in range(10_000):
        queue.push(key, 0, key % 5000, 0, 1000, 500, 0, NEVER, key)

    def come_and_go() -> None:
        for key in range(10_000, 11_000):
            queue.push(key, 0, key % 5000, 0, 1000, 500, 0, TTL_NS, key)
        for key in range(10_000, 11_000):
            queue.remove(key * 7919 % 1000 + 10_000)

    return come_and_go


def growing(order: int, flows: int) -> Action:
    return turning(1, flows, 2, order=order)


WAITING = [
    ("one waits", lambda: turning(1, 1)),
    ("100 wait, one flow", lambda: turning(1, 1, 100)),
    ("40,000 wait, 5,000 flows x 8 bands", lambda: turning(BANDS, FLOWS)),
    ("50,000 wait, 5,000 flows, by objective", lambda: turning(1, FLOWS, 10, order=SLO)),
    ("50,000 wait, one flow, by objective", lambda: turning(1, 1, 50_000, order=SLO)),
    ("50,000 wait, 5,000 flows, strict, by objective", lambda: turning(1, FLOWS, 10, order=SLO, fairness=STRICT)),
]
CASES = [
    *(Case(f"queue: enqueue and dispatch, {what}", make, "M/s", 2.0, per=LOOP) for what, make in WAITING),
    Case("queue: a round in which nobody can go, 40,000 wait", nobody_can_go, limit=1.0),
    Case("queue: skip one of 40,000 flows", lambda: all_are_skipped(FLOWS), limit=1.0, per=BANDS * FLOWS),
    Case("queue: ask whether anybody waits before", anybody_before, limit=0.3, per=100),
    Case("queue: come and lose patience, 10,000 others wait", coming_and_going_away, limit=1.0, per=1000),
]
GROWTHS = [
    Growth("queue: come and go, n flows, first come", lambda n: growing(FCFS, n), 1000, "log n"),
    Growth("queue: come and go, n flows, by objective", lambda n: growing(SLO, n), 1000, "log n"),
    Growth("queue: skip each of 8 n flows", all_are_skipped, 250, "n log n"),
]
