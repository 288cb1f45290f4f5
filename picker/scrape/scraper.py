"""Keeps the engines' view of their load fresh: scrapes every endpoint as often as is of use, and no oftener.

One timer decides for all endpoints; at most `concurrency` scrapes run at once and never two of one endpoint. Nothing
that an endpoint answers, or a bug in reading it, stops the scraping of the others.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

from picker.config.settings import ScrapeSettings
from picker.scrape.engines import EngineTable
from picker.scrape.failures import REASONS, Reason
from picker.scrape.fetch import Fetcher, Outcome
from picker.scrape.schedule import Schedule, Target
from picker.types import Endpoint, EndpointKey, ScrapedLoad

__all__ = ["LoadSink", "Scraper"]

log = logging.getLogger(__name__)

APART_S = 0.03
"""Between two looks at what is due: most of what an idle endpoint costs is waking up, and one look serves many. Longer
would be cheaper still, but must stay well below the shortest interval, of 50 ms."""
EARLY_S = APART_S / 2
"""What is due so soon is taken along, so that scrapes come on time on average."""
TICK_S = 0.001
"""Of uvloop's clock. A timer may fire so much early: what is due within a tick is due."""


class LoadSink(Protocol):
    """Where results go. Called on the loop's thread; must not block."""

    def busy(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has work, so that its load is worth reading often."""

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        """A page was read just now; what it does not tell is None and no older than before."""

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        """A scrape failed, for one of the reasons of `picker.scrape.REASONS`."""


class Scraper:
    """Scrapes endpoints from `start` to `stop`.

    Plain counters, never reset: `scrapes` that told a load, `failures` by reason, `seconds` spent waiting for pages,
    and `malformed_lines` skipped.
    """

    def __init__(
        self,
        sink: LoadSink,
        *,
        settings: ScrapeSettings,
        engines: EngineTable | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.scrapes = 0
        self.failures: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self.seconds = 0.0
        self._sink = sink
        self._settings = settings
        self._engines = engines or EngineTable()
        self._malformed = 0  # by readers that are no more
        self._jitter = jitter
        self._schedule = Schedule(settings, jitter)
        self._endpoints: dict[EndpointKey, Endpoint] = {}
        self._targets: dict[EndpointKey, Target] = {}
        self._running: dict[Target, float] = {}  # since when
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._looked_at = 0.0
        self._fetcher: Fetcher | None = None
        self._changing = asyncio.Lock()

    @property
    def malformed_lines(self) -> int:
        """Lines of wanted series that could not be read."""
        return self._malformed + self._engines.malformed

    async def start(self) -> None:
        """Begins with the endpoints set so far. Raises OSError if a certificate file cannot be read."""
        if self._fetcher is not None:
            raise RuntimeError("the scraper was started already")
        self._fetcher = Fetcher(self._settings)
        self._looked_at = 0.0
        self.change(come=self._endpoints.values())

    async def stop(self) -> None:
        """Drops all scrapes in flight and all connections. Harmless if not started; it may be started again."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is None:
            return
        for key in list(self._targets):
            self._remove(key)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await fetcher.close()

    async def reconfigure(self, settings: ScrapeSettings, engines: EngineTable) -> None:
        """Go on with other settings, or stop if they say so; what is counted goes on. Raises what `start` raises.

        Of several at once the last one counts.
        """
        async with self._changing:
            await self.stop()
            self._malformed += self._engines.malformed
            self._settings, self._engines = settings, engines
            self._schedule = Schedule(settings, self._jitter)
            if settings.enabled:
                await self.start()

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """These and no others from now on. See `change`, which costs no more than what changes."""
        wanted = {endpoint.key for endpoint in endpoints}
        self.change(gone=[key for key in self._endpoints if key not in wanted], come=endpoints)

    def change(self, *, gone: Iterable[EndpointKey] = (), come: Iterable[Endpoint] = ()) -> None:
        """Those known already go on as they were, perhaps with other labels; new ones are scraped at once."""
        for key in gone:
            self._endpoints.pop(key, None)
            if key in self._targets:
                self._remove(key)
        for endpoint in list(come):
            self._endpoints[endpoint.key] = endpoint
            if self._fetcher is not None:
                self._add(endpoint.key, endpoint, self._fetcher)
        self._rearm()

    def _add(self, key: EndpointKey, endpoint: Endpoint, fetcher: Fetcher) -> None:
        reader = self._engines.reader(endpoint.labels)
        known = self._targets.get(key)
        if known is not None:
            known.endpoint, known.reader = endpoint, reader
            return
        now = asyncio.get_running_loop().time()
        self._targets[key] = target = Target(endpoint, fetcher.source(endpoint), reader, now)
        self._schedule.put(target, now)

    def _remove(self, key: EndpointKey) -> None:
        target = self._targets.pop(key)
        target.is_removed = True
        target.source.close()
        started = self._running.pop(target, None)
        if started is not None:
            self.seconds += asyncio.get_running_loop().time() - started

    def _rearm(self) -> None:
        """Sets the timer for the next look, if there will be anything to do."""
        at = self._next_at()
        if self._fetcher is None or at is None:
            return
        at = max(at, self._looked_at + APART_S)
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = asyncio.get_running_loop().call_at(at, self._look), at

    def _next_at(self) -> float | None:
        """When the oldest scrape will have had its time, or the next can begin if there is room."""
        times = [started + self._settings.timeout_s for started in islice(self._running.values(), 1)]
        due = self._schedule.next_at()
        if due is not None and not self._is_full():
            times.append(due)
        return min(times, default=None)

    def _is_full(self) -> bool:
        return len(self._running) >= self._settings.concurrency

    def _look(self) -> None:
        """Ends the scrapes that have had their time, and starts those that are due as far as there is room."""
        self._timer = None
        self._looked_at = now = asyncio.get_running_loop().time()
        due = now + EARLY_S
        self._expire(now)
        while not self._is_full() and (target := self._schedule.pop(due)) is not None:
            if due >= target.idle_at or self._is_busy(target):
                self._begin(target, now)
            else:
                self._schedule.put(target, max(now, target.busy_at))
        self._rearm()

    def _expire(self, now: float) -> None:
        for target, started in list(self._running.items()):  # the oldest first
            if started + self._settings.timeout_s > now + TICK_S:
                break
            target.source.close()
            self._ended(target, "timeout")

    def _is_busy(self, target: Target) -> bool:
        try:
            return self._sink.busy(target.endpoint)
        except Exception:
            self._bug(target)
            return True

    def _begin(self, target: Target, now: float) -> None:
        self._running[target] = now
        target.source.fetch(partial(self._ended, target))

    def _ended(self, target: Target, outcome: Outcome) -> None:
        started, now = self._running.pop(target), asyncio.get_running_loop().time()
        self.seconds += now - started
        try:
            self._take(target, outcome, started, now)
        except Exception:
            self._bug(target)
            self._schedule.failed(target, now)
        self._schedule.put(target, now)
        self._rearm()

    def _take(self, target: Target, outcome: Outcome, started: float, now: float) -> None:
        load = None if isinstance(outcome, str) else target.reader.read(outcome)
        if load is not None:
            self.scrapes += 1
            self._schedule.succeeded(target, started, now)
            self._sink.observe(target.endpoint, load)
        else:
            reason = outcome if isinstance(outcome, str) else "no_series"
            self.failures[reason] += 1
            self._schedule.failed(target, now)
            self._sink.scrape_failed(target.endpoint, reason)

    def _bug(self, target: Target) -> None:
        self.failures["internal"] += 1
        log.exception("scraping failed by a bug", extra={"endpoint": target.endpoint.target})
