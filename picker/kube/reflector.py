"""One kind of objects, kept equal to the server's: list, mark, watch from it, list again when that cannot go on.

Never ends by itself. What it cannot get to it tries again, later and later, and goes on from where it was; whoever
listens keeps what was told last. What objects are is not known here (`decode`), what events come to stands in `store`.
"""

import asyncio
import enum
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from picker.errors import KubernetesError, KubernetesRefusal, printable
from picker.kube.client import SilentWatch
from picker.kube.pace import Backoff, Timing
from picker.kube.store import Change, Expired, Garbage, Key, ServerTrouble, Store, WentBack

__all__ = ["Counts", "Listener", "Presence", "Reflector", "Source", "Surroundings"]

PAGE = 500
"""Objects asked for at once."""

LIST_S = 60.0
"""Longest time a page of a list may take."""

TRIES = 3
"""After so many doubtful answers in a row a mark is not trusted any more, and after so many faults in a row a kind that
may be missing is not waited for any more."""

REMIND = 64
"""Every so many faults in a row there is a warning."""

DOUBTFUL = frozenset(["garbage", "error_event", "ended_early", "refused", "server_error"])
"""Causes that a bad mark can have; a server that is away, or busy, says nothing about it."""

WRONG = frozenset(["absent", "forbidden", "refused"])
"""Causes that do not pass by themselves: someone must do something."""

_STATUS = {401: "unauthorized", 403: "forbidden", 404: "absent", 410: "expired", 429: "throttled", 503: "unavailable"}
_OURS: dict[type[Exception], str] = {
    Garbage: "garbage",
    Expired: "expired",
    WentBack: "backwards",
    ServerTrouble: "error_event",
}

_LOG = logging.getLogger("picker.kube")
T = TypeVar("T")
R = TypeVar("R")


class Api(Protocol):
    """Of `KubeClient`."""

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, timeout_s: float = ...
    ) -> bytes: ...

    def watch(
        self, path: str, *, query: Mapping[str, str | int], idle_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Listener(Protocol[T]):
    """Who is told. An exception is a bug, logged; the objects are listed and told again."""

    def replaced(self, objects: Mapping[Key, T]) -> None:
        """These and no others: after each list. Many may be as before."""

    def changed(self, key: Key, change: Change[T]) -> None:
        """One object, after an event that changed something."""

    def settled(self) -> None:
        """Once: there is no point in waiting for it any more. It was listed, is absent, or seems to be out of order."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is watched: `kind` as the figures show it, the path of the collection, and selectors if it is not all.

    `optional`: the kind may not be installed, or not allowed; it is looked for now and then."""

    kind: str
    path: str
    selectors: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False


@dataclass(slots=True)
class Counts:
    """What happened to a kind of objects so far; several reflectors may share one."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    stale_events: int = 0
    unusable: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """By cause."""


class Presence(enum.Enum):
    """Whether the server has the kind, as far as is known."""

    UNKNOWN = enum.auto()
    PRESENT = enum.auto()
    ABSENT = enum.auto()
    """Not installed, or not allowed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance; tests bring their own. `clock`: seconds, monotonic."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    timing: Timing = field(default_factory=Timing)


class _Short(KubernetesError):
    """A watch that ended as soon as it began."""


class Reflector(Generic[T]):
    """Follows one source. `run` it in a task, for ever; cancel the task to end it."""

    def __init__(
        self,
        source: Source,
        decode: Callable[[bytes], T],
        listener: Listener[T],
        *,
        client: Api,
        counts: Counts,
        around: Surroundings,
    ) -> None:
        self.presence = Presence.UNKNOWN
        self.is_settled = False
        """Whether there is no point in waiting for it any more."""
        self.store = Store(source.kind, decode)
        self._source, self._listener, self._client = source, listener, client
        self._counts, self._around = counts, around
        self._backoff = Backoff(around.timing, around.jitter)
        self._is_told = False  # whether the listener knows what the store does
        self._is_announced = False
        self._in_pages = True
        self._doubts = 0
        self._absences = 0
        self._is_missing = False
        self._current_s = around.clock()
        self._is_open = False
        self._known_bug = ""

    @property
    def age_s(self) -> float:
        """Time since what was told was last known to be all there is. 0 while a watch is open: silence is no news."""
        return 0.0 if self._is_open else self._around.clock() - self._current_s

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            pause_s = 0.0
            try:
                if not (self.store.mark and self._is_told):
                    await self._list()
                await self._watch()
            except Exception as problem:
                pause_s = self._failed(problem)
            try:
                self._catch_up()
            except Exception as problem:
                pause_s = max(pause_s, self._failed(problem))
            await self._around.sleep(pause_s)

    # A list.

    async def _list(self) -> None:
        self.store.begin()
        before, rest = "", await self._page("")
        while rest:
            if rest == before:
                raise Garbage("a list that does not go on")
            before, rest = rest, await self._page(rest)
        self.store.finish()
        self._counts.lists += 1
        self._current_s = self._around.clock()
        self._in_pages, self._absences, self._is_missing = True, 0, False
        self.presence, self.is_settled = Presence.PRESENT, True
        self._tell()
        self._catch_up()

    async def _page(self, rest: str) -> str:
        query: dict[str, str | int] = dict(self._source.selectors)
        if self._in_pages:
            query["limit"] = PAGE
        if rest:
            query["continue"] = rest
        try:
            body = await self._client.request("GET", self._source.path, query=query, timeout_s=LIST_S)
        except KubernetesRefusal as refusal:
            if rest and _cause(refusal) == "expired":
                self._in_pages = False  # too slow for pages: all at once then
            raise
        return self._counted(lambda: self.store.page(body))

    def _tell(self) -> None:
        self._is_told = False
        self._listener.replaced(self.store.objects)
        self._is_told = True

    def _catch_up(self) -> None:
        """Tells what no list told."""
        if self.presence is Presence.ABSENT and not self._is_told:
            self._tell()
        if self.is_settled and not self._is_announced:
            self._listener.settled()
            self._is_announced = True

    # A watch.

    async def _watch(self) -> None:
        """Until the server ends it, as it was asked to."""
        timing, begun_s, heard = self._around.timing, self._around.clock(), self.store.events
        query: dict[str, str | int] = {
            **self._source.selectors,
            "resourceVersion": self.store.mark,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(timing.watch_s * (1.0 + self._around.jitter())),
        }
        self._counts.watches += 1
        try:
            async with self._client.watch(self._source.path, query=query, idle_s=timing.idle_s) as lines:
                self._is_open = True
                self._current_s = self._around.clock()
                async for line in lines:
                    self._take(line)
        finally:
            self._is_open = False
        if self.store.events == heard and self._around.clock() - begun_s < timing.short_s:
            raise _Short(f"watching {self._source.path}: the server ended it as soon as it had begun")

    def _take(self, line: bytes) -> None:
        taken = self._counted(lambda: self.store.take(line))
        self._current_s = self._around.clock()
        if taken is not None:
            self._is_told = False
            self._listener.changed(*taken)
            self._is_told = True
        self._recovered()

    def _counted(self, act: Callable[[], R]) -> R:
        store, counts = self.store, self._counts
        events, stale, unusable = store.events, store.stale, store.unusable
        try:
            return act()
        finally:
            counts.events += store.events - events
            counts.stale_events += store.stale - stale
            counts.unusable += store.unusable - unusable

    # What goes wrong.

    def _recovered(self) -> None:
        if self._backoff.faults > 1:
            _LOG.info("%s: watched again after %d faults", self._source.kind, self._backoff.faults)
        self._backoff.succeeded()
        self._doubts = 0

    def _failed(self, problem: Exception) -> float:
        """Counts and logs it, and decides how to go on. The seconds to wait first."""
        cause = _cause(problem)
        self._counts.faults[cause] += 1
        if self._source.optional and cause in ("absent", "forbidden"):
            return self._missing(cause, problem)
        if cause == "silence":  # no failure to be in a row with others: all may be quiet, on a server without bookmarks
            self._backoff.succeeded()
        pause_s = self._backoff.failed(problem.retry_after_s if isinstance(problem, KubernetesRefusal) else 0.0)
        self._doubts += cause in DOUBTFUL
        if cause in ("expired", "backwards", "bug") or self._doubts >= TRIES:
            self.store.forget()
            self._doubts = 0
        self.is_settled = self.is_settled or self._backoff.faults >= TRIES
        self._log(cause, problem, pause_s)
        return pause_s

    def _missing(self, cause: str, problem: Exception) -> float:
        """A kind that need not be there. One that was is only given up when the server says twice that there is none:
        an API server that has just started may not know all its kinds yet, and permissions come and go."""
        self._absences += cause == "absent"
        if not self._is_missing:
            _LOG.info("%s are not watched for now: %s", self._source.kind, printable(str(problem)))
            self._is_missing = True
        if self.presence is Presence.UNKNOWN or (self.presence is Presence.PRESENT and self._absences > 1):
            self.presence, self.is_settled = Presence.ABSENT, True
            self.store.clear()
            self._is_told = False
        self._backoff.succeeded()
        return self._around.timing.absent_s * (1.0 + self._around.jitter())

    def _log(self, cause: str, problem: Exception, pause_s: float) -> None:
        kind, faults = self._source.kind, self._backoff.faults
        if cause == "bug":
            bug = f"{type(problem).__name__}: {problem}"
            if bug != self._known_bug:
                _LOG.error("%s: a bug, please report it; listing again", kind, exc_info=problem)
            self._known_bug = bug
            return
        is_loud = faults == 2 or faults % REMIND == 0 or (faults == 1 and cause in WRONG)
        is_news = faults == 1 and cause != "silence"
        level = logging.WARNING if is_loud else logging.INFO if is_news else logging.DEBUG
        said = printable(str(problem))
        _LOG.log(level, "%s: %s: %s; fault %d in a row, again in %.1f s", kind, cause, said, faults, pause_s)


def _cause(problem: Exception) -> str:
    """What the figures call it."""
    if isinstance(problem, KubernetesRefusal):
        if problem.reason in ("Expired", "Gone"):
            return "expired"
        return _STATUS.get(problem.status, "server_error" if problem.status >= 500 else "refused")
    if isinstance(problem, SilentWatch):
        return "silence"
    if isinstance(problem, _Short):
        return "ended_early"
    if isinstance(problem, KubernetesError):
        return "connection"
    return _OURS.get(type(problem), "bug")
