"""When to ask an API server again: exponential back-off with full jitter, and what it asks for itself. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "Timing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a watch lasts, and how long is waited after what."""

    watch_s: float = 300.0
    """Least time the server is asked to keep a watch open; up to twice that, at random, as client-go does."""

    idle_s: float = 90.0
    """Longest silence of a watch before it is made again from its mark. An API server sends a bookmark each minute."""

    short_s: float = 1.0
    """A watch that ended sooner, and said nothing, is a fault."""

    absent_s: float = 30.0
    """Least time between two looks for a kind that is not installed or not allowed; up to twice that, at random."""

    first_s: float = 0.25
    """Longest wait after a first fault; it doubles with each further one."""

    most_s: float = 10.0
    """Longest wait after many."""

    most_asked_s: float = 60.0
    """Longest wait that a server may ask for (`Retry-After`)."""


class Backoff:
    """Waits after faults in a row. `jitter`: a number from 0 to 1, another one each time."""

    def __init__(self, timing: Timing, jitter: Callable[[], float]) -> None:
        self._timing, self._jitter = timing, jitter
        self.faults = 0
        """In a row."""

    def succeeded(self) -> None:
        """Something came through: the next fault is a first one."""
        self.faults = 0

    def failed(self, asked_s: float = 0.0) -> float:
        """The seconds to wait now, `asked_s` or more, for that is how long the server asks to be left alone."""
        limit_s = self._timing.first_s * 2.0 ** min(self.faults, 30)
        self.faults += 1
        return max(self._jitter() * min(limit_s, self._timing.most_s), min(asked_s, self._timing.most_asked_s))
