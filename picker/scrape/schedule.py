"""When which endpoint is scraped: decisions only, no I/O and no clock.

An endpoint is due at its busy time if it has work and at its idle time if not, so it is looked at in between too: work
that arrives at an idle endpoint is noticed within a busy interval. Pauses are jittered by a tenth, so that endpoints
found at the same moment drift apart instead of being scraped in one burst for ever.
"""

import heapq
from collections.abc import Callable
from itertools import count

from picker.config.settings import ScrapeSettings
from picker.scrape.engines import EngineReader
from picker.scrape.fetch import PageSource
from picker.types import Endpoint

__all__ = ["Schedule", "Target"]

JITTER = 0.1


class Target:
    """One endpoint under watch, and when it is due; times are the loop's."""

    __slots__ = ("busy_at", "endpoint", "failures", "idle_at", "is_removed", "reader", "source")

    def __init__(self, endpoint: Endpoint, source: PageSource, reader: EngineReader, now: float) -> None:
        self.endpoint = endpoint
        self.source = source
        self.reader = reader
        self.failures = 0
        self.busy_at = now
        self.idle_at = now
        self.is_removed = False


class Schedule:
    """The targets that wait to be looked at, earliest first. `jitter` gives numbers from 0 to 1."""

    def __init__(self, settings: ScrapeSettings, jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._heap: list[tuple[float, int, Target]] = []
        self._order = count()

    def next_at(self) -> float | None:
        """When the next target is to be looked at; None without targets."""
        while self._heap and self._heap[0][2].is_removed:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> Target | None:
        """Takes out the next target to be looked at by `now`, which is its busy time or later; `put` brings it back."""
        at = self.next_at()
        return None if at is None or at > now else heapq.heappop(self._heap)[2]

    def put(self, target: Target, now: float) -> None:
        """Lets a target wait for its busy time, or if that is past, for a further look one busy interval on."""
        at = target.busy_at
        if at <= now:
            at = min(target.idle_at, now + self._settings.busy_interval_s)
        heapq.heappush(self._heap, (at, next(self._order), target))

    def succeeded(self, target: Target, started: float, ended: float) -> None:
        """Sets when the target is due next; its idle time means nothing before its busy time.

        A slow page is left alone for as long as it took, so that no engine is read more than half of the time.
        """
        target.failures = 0
        target.busy_at = max(ended + (ended - started), started + self._settings.busy_interval_s * self._spread())
        target.idle_at = started + self._settings.idle_interval_s * self._spread()

    def failed(self, target: Target, ended: float) -> None:
        """Backs off: the busy interval, doubled by each further failure, busy or not."""
        pause = self._settings.busy_interval_s * 2.0 ** min(target.failures, 30)
        target.failures += 1
        target.busy_at = target.idle_at = ended + min(pause, self._settings.backoff_max_s) * self._spread()

    def _spread(self) -> float:
        return 1.0 - JITTER * self._jitter()
