"""What a case is: one thing the core does, on inputs as they occur, driven by every instrument alike.

pytest-benchmark times it (`make bench`), callgrind counts its instructions (`make bench-gate`), and two builds run it
in turns (`make bench-pair`). So a case measures nothing itself: `make` sets everything up and returns an action, which
may be called any number of times and does the same each time. Inputs are seeded; no clock, no sockets, no threads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Action = Callable[[], object]

TIMES = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
RATES = {"GB/s": 1e-9, "M/s": 1e-6}


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    `name`: "module: what", of which "module" is the core module it is about. `make`: sets it up, returns the action.
    `per`: operations (or bytes) in one call of it. The figure is the time of one operation in `unit`, or for a rate
    ("GB/s", "M/s") operations by time; `limit`: the target of it, None for a figure that is only told. `is_counted`:
    whether callgrind runs it; not what takes minutes there to set up.
    """

    name: str
    make: Callable[[], Action]
    unit: str = "us"
    limit: float | None = None
    per: float = 1
    is_counted: bool = True

    def __post_init__(self) -> None:
        if self.unit not in TIMES and self.unit not in RATES:
            raise ValueError(f"{self.name}: unit {self.unit!r}")

    @property
    def higher_is_better(self) -> bool:
        return self.unit in RATES

    def figure(self, seconds: float) -> float:
        """In its unit, if a call of the action takes so long."""
        return self.per / seconds * RATES[self.unit] if self.higher_is_better else seconds / self.per * TIMES[self.unit]


EIGHT = 8
"""How many times larger the larger of the two sizes of a growth is."""
SLACK = 1.1
"""What growth may exceed its order by."""
ORDERS: dict[str, Callable[[int], float]] = {
    "1": lambda n: 1.0,
    "log n": math.log2,
    "n": float,
    "n log n": lambda n: n * math.log2(n),
}


@dataclass(frozen=True)
class Growth:
    """How instructions grow with the size of something: from `n` to 8 `n` no more than by the stated order, and 10 %.

    `make(n)` sets it up for a size. Other fields as in `Case`.
    """

    name: str
    make: Callable[[int], Action]
    n: int
    order: str

    def at(self, n: int) -> Case:
        """The case of one size."""
        return Case(f"{self.name}, n = {n:,}", lambda: self.make(n))

    @property
    def cases(self) -> tuple[Case, Case]:
        return self.at(self.n), self.at(EIGHT * self.n)

    @property
    def most(self) -> float:
        """How many times as many instructions the larger one may take."""
        order = ORDERS[self.order]
        return SLACK * order(EIGHT * self.n) / order(self.n)
