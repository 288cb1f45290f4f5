"""Keeps the engines' view of their load fresh: scrapes every endpoint as often as is of use, and no oftener.

One timer decides for all endpoints; at most `concurrency` scrapes run at once and never two of one endpoint. Nothing
that an endpoint answers, or a bug in reading it, stops the scraping of the others.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from picker.config.settings import ScrapeSettings
from picker.scrape.engines import EngineTable
from picker.scrape.fetch import REASONS, Fetcher, FetchFailed, Reason
from picker.scrape.schedule import Schedule, Target
from picker.types import Endpoint, ScrapedLoad

__all__ = ["LoadSink", "Scraper"]

log = logging.getLogger(__name__)

Key = tuple[str, str, str]


class LoadSink(Protocol):
    """Where results go. Called on the loop's thread; must not block."""

    def busy(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has work, so that its load is worth reading often."""

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        """A page was read just now; what it does not tell is None and no older than before."""

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        """A scrape failed, for one of the reasons of `picker.scrape.fetch.REASONS`."""


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
        self._schedule = Schedule(settings, jitter)
        self._endpoints: Sequence[Endpoint] = ()
        self._targets: dict[Key, Target] = {}
        self._running: dict[Target, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fetcher: Fetcher | None = None

    @property
    def malformed_lines(self) -> int:
        """Lines of wanted series that could not be read."""
        return self._engines.malformed

    async def start(self) -> None:
        """Begins with the endpoints set so far. Raises OSError if a certificate file cannot be read."""
        if self._fetcher is not None:
            raise RuntimeError("the scraper was started already")
        self._fetcher = Fetcher(self._settings)
        self.set_endpoints(self._endpoints)

    async def stop(self) -> None:
        """Drops all scrapes in flight and all connections. Harmless if not started; it may be started again."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is None:
            return
        for key in list(self._targets):
            self._remove(key)
        self._rearm()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await fetcher.close()

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """These and no others from now on. Those known already go on as they were; new ones are scraped at once."""
        self._endpoints = endpoints
        if self._fetcher is None:
            return
        wanted = {(endpoint.namespace, endpoint.name, endpoint.target): endpoint for endpoint in endpoints}
        for key in self._targets.keys() - wanted.keys():
            self._remove(key)
        for key, endpoint in wanted.items():
            self._add(key, endpoint, self._fetcher)
        self._rearm()

    def _add(self, key: Key, endpoint: Endpoint, fetcher: Fetcher) -> None:
        reader = self._engines.reader(endpoint.labels)
        known = self._targets.get(key)
        if known is not None:
            known.endpoint, known.reader = endpoint, reader
            return
        now = asyncio.get_running_loop().time()
        self._targets[key] = target = Target(endpoint, fetcher.url(endpoint), reader, now)
        self._schedule.put(target, now)

    def _remove(self, key: Key) -> None:
        target = self._targets.pop(key)
        target.is_removed = True
        if target in self._running:
            self._running[target].cancel()

    def _rearm(self) -> None:
        """Sets the timer for the next look, unless all places are taken: then the next scrape to end does it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._schedule.next_at()
        if self._fetcher is not None and at is not None and len(self._running) < self._settings.concurrency:
            self._timer = asyncio.get_running_loop().call_at(at, self._look, self._fetcher)

    def _look(self, fetcher: Fetcher) -> None:
        """Starts the scrapes that are due, as far as there is room."""
        now = asyncio.get_running_loop().time()
        while len(self._running) < self._settings.concurrency and (target := self._schedule.pop(now)) is not None:
            if now >= target.idle_at or self._is_busy(target):
                self._begin(target, fetcher)
            else:
                self._schedule.put(target, now)
        self._rearm()

    def _is_busy(self, target: Target) -> bool:
        try:
            return self._sink.busy(target.endpoint)
        except Exception:
            self._bug(target)
            return True

    def _begin(self, target: Target, fetcher: Fetcher) -> None:
        task = asyncio.get_running_loop().create_task(self._scrape(target, fetcher))
        self._running[target] = task
        task.add_done_callback(partial(self._ended, target))

    def _ended(self, target: Target, _task: asyncio.Task[None]) -> None:
        del self._running[target]
        self._schedule.put(target, asyncio.get_running_loop().time())  # which drops it if it was removed
        self._rearm()

    async def _scrape(self, target: Target, fetcher: Fetcher) -> None:
        """One scrape from request to sink. Raises nothing but CancelledError."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            await self._attempt(target, fetcher, started)
        except Exception:
            self._bug(target)
            self._schedule.failed(target, clock())
        finally:
            self.seconds += clock() - started

    async def _attempt(self, target: Target, fetcher: Fetcher, started: float) -> None:
        try:
            load = target.reader.read(await fetcher.page(target.url))
            if load is None:
                raise FetchFailed("no_series")
        except FetchFailed as error:
            self.failures[error.reason] += 1
            self._schedule.failed(target, asyncio.get_running_loop().time())
            self._sink.scrape_failed(target.endpoint, error.reason)
        else:
            self.scrapes += 1
            self._schedule.succeeded(target, started, asyncio.get_running_loop().time())
            self._sink.observe(target.endpoint, load)

    def _bug(self, target: Target) -> None:
        self.failures["internal"] += 1
        log.exception("scraping failed by a bug", extra={"endpoint": target.endpoint.target})
