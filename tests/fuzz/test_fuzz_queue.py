"""Bytes read as operations, mutated: the queue does what its model does, and its invariants hold, whatever comes."""

from collections.abc import Callable
from random import Random

from picker._core.queue import EDF, FCFS, ROUND_ROBIN, SLO, STRICT, TOKENS, Queue
from tests.model import queue as model
from tests.support.fuzz import CASES, mutants

KEYS = 16
TICK = 10_000_000
TIMES = (model.NEVER, 2 * TICK, 3 * TICK + 1, 70 * TICK, 5000 * TICK, 64**4 * TICK, 0, -1)
COSTS = (1, 2, 3, 7, 10**6, 2**62, 0, -(2**63))
STEPS = (0, 1, TICK - 1, TICK, 63 * TICK, 4096 * TICK, 2 * 64**4 * TICK, -TICK)
Operation = Callable[["Players", int, int, int], None]


class Players:
    """Both, and the time; the first bytes say what limits there are."""

    def __init__(self, a: int, b: int, c: int) -> None:
        limits = (0, 5, 9, 0)[a % 4], (0, 300)[b % 2], (9, 0, 1, 2)[b // 2 % 4], (9, 0, 1, 3)[c % 4]
        self.core, self.model = Queue(KEYS, *limits, now_ns=c), model.Queue(*limits, now_ns=c)
        self.now_ns = c

    def push(self, a: int, b: int, c: int) -> None:
        if a % KEYS in self.model.items:
            return
        expires_ns = min(TIMES[c % 8] + self.now_ns, model.NEVER)
        size, cost, slo_ns = (0, 10, 30, 100)[b // 4 % 4], COSTS[b % 8], TIMES[c // 8 % 8]
        said = a % KEYS, b % 4 - 1, a // KEYS % 4, c // 64 % 3, size, cost, slo_ns, expires_ns
        cap = self.model.push(*said, self.now_ns)
        try:
            self.core.push(*said, self.now_ns, b"name" * b)
            assert cap is None
        except OverflowError as error:
            assert str(error) == cap

    def go_on(self, a: int, b: int, c: int) -> None:
        for step in range(b % 8):
            key = self.core.peek()
            assert key == self.model.peek()
            if key is None:
                return
            self.both(("take", "take", "skip", "block")[a >> 2 * (step % 4) & 3], key)

    def pick_out(self, a: int, b: int, c: int) -> None:
        if a % KEYS in self.model.items:
            self.both(("take", "skip", "block", "remove")[b % 4], a % KEYS)

    def begin(self, a: int, b: int, c: int) -> None:
        self.core.begin()
        self.model.begin()

    def pass_time(self, a: int, b: int, c: int) -> None:
        self.now_ns = min(self.now_ns + STEPS[a % 8], 2**62)
        for _ in range(b % (KEYS + 2)):
            due, key = self.model.due(self.now_ns), self.core.expired(self.now_ns)
            assert key in due if due else key is None
            if key is not None:
                self.model.remove(key)

    def set_rules(self, a: int, b: int, c: int) -> None:
        rows = [
            (
                (FCFS, EDF, SLO)[byte % 3],
                (STRICT, ROUND_ROBIN, TOKENS)[byte // 3 % 3],
                (0, 0, 1, 4)[byte // 9 % 4],
                (0, 130)[byte // 36 % 2],
                (0, 2 * TICK, model.NEVER)[byte // 72 % 3],
            )
            for byte in (a, b, c)
        ]
        own = {priority: rows[priority % 3] for priority in range(a % 5 - 1)}
        self.core.set_rules(list(own.items()), rows[1], rows[2])
        self.model.set_rules(own, rows[1], rows[2])

    def both(self, verb: str, key: int) -> None:
        getattr(self.core, verb)(key)
        getattr(self.model, verb)(key)

    def compare(self) -> None:
        assert self.core.peek() == self.model.peek()
        assert self.core.bands() == self.model.bands()
        assert {(priority, flow, *rest) for priority, flow, _, *rest in self.core.flows()} == self.model.flows()


OPERATIONS: tuple[Operation, ...] = (
    Players.push,
    Players.push,
    Players.push,
    Players.go_on,
    Players.pick_out,
    Players.begin,
    Players.pass_time,
    Players.set_rules,
)


def play(text: bytes) -> None:
    """Four bytes an operation."""
    players = Players(*text[:3].ljust(3, b"\0"))
    for at in range(3, len(text) - 3, 4):
        OPERATIONS[text[at] % len(OPERATIONS)](players, *text[at + 1 : at + 4])
        players.core._check()
        players.compare()


def scripts() -> list[bytes]:
    rng = Random(6)
    return [bytes(rng.randrange(256) for _ in range(3 + 4 * rng.randrange(10, 60))) for _ in range(30)]


def test_mutated_scripts_are_played_as_by_the_model() -> None:
    tokens = [bytes([verb, a, b, c]) for verb in range(8) for a, b, c in ((0, 0, 0), (77, 6, 200), (17, 255, 64))]
    for case, text in mutants(scripts(), tokens, cases=CASES // 20):
        try:
            play(text)
        except Exception as error:
            raise AssertionError(f"case {case}: {text.hex()}") from error
