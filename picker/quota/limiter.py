"""Asks and tells the store for the core, a batch for each turn of the loop, and gets on without it while it is away.

One thread: the one that feeds sessions. A request waits for its answer in the core; `wake` is called when some have it.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from picker._core.quotas import Quota
from picker.quota.store import Asked, Settled, Store, StoreError

__all__ = ["Limiter", "StoreFigures"]

BATCH = 256
"""Requests asked about at once."""
IN_FLIGHT = 8
"""Batches under way at once; what comes meanwhile waits for one of them."""
KEPT = 65536
"""Settlements kept for a store that is away; of more the oldest are lost."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
TELL_S = 30.0
"""How often a store that stays away is logged."""

_LOG = logging.getLogger("picker.quota")


@dataclass(slots=True)
class StoreFigures:
    """Counters of what passed between picker and the store."""

    batches: int = 0
    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    lost: int = 0
    is_reachable: bool = True


class Limiter:
    """Between `quota` and `store`; `fallback` is what counts while the store is away (see `Quota.set_store`).

    `timeout_s`: how long a batch may take. `wake` is called when requests have had their answers.
    """

    def __init__(
        self,
        quota: Quota,
        store: Store,
        *,
        fallback: str,
        timeout_s: float,
        wake: Callable[[], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.figures = StoreFigures()
        self._quota = quota
        self._store = store
        self._fallback = fallback
        self._timeout_s = timeout_s
        self._wake = wake
        self._clock_ns = clock_ns
        self._under_way = 0
        self._is_settling = False
        self._unsettled: deque[Settled] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_s = -TELL_S
        self._is_scheduled = False
        quota.set_store(True, fallback=fallback)

    def look(self) -> None:
        """The core may have something for the store: seen to in this turn of the loop, together with what comes."""
        if not self._is_scheduled and (self._quota.is_due or self._unsettled):
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._serve)

    async def stop(self) -> None:
        """Tell the store what is left to be told, within the time of two batches; then let go of it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._timeout_s):
                await self._finish()
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._quota.set_store(False)
        await self._store.close()

    async def _finish(self) -> None:
        self._serve()
        while self.figures.is_reachable and self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._serve()

    def _serve(self) -> None:
        self._is_scheduled = False
        while self.figures.is_reachable and self._under_way < IN_FLIGHT and (batch := self._quota.asked(BATCH)):
            self._under_way += 1
            self._do(self._ask(batch))
        self._keep()
        if self.figures.is_reachable and self._unsettled and not self._is_settling:
            self._is_settling = True
            self._do(self._settle())

    def _keep(self) -> None:
        self._unsettled.extend(self._quota.settled(BATCH))
        while len(self._unsettled) > KEPT:
            self._unsettled.popleft()
            self.figures.lost += 1

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- asking ---

    async def _ask(self, batch: list[Asked]) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._store.reserve(batch)
            for (ticket, _), answer in zip(batch, answers, strict=True):
                self._quota.answer(
                    ticket, answer.refused, answer.used, answer.ends_ms, answer.store_ms, self._clock_ns()
                )
        except Exception as problem:  # whatever the client raises, or makes of an answer: requests wait for it
            self._lose(problem)
        finally:
            self._under_way -= 1
            self.figures.batches += 1
            self.figures.requests += len(batch)
            self.figures.seconds += time.perf_counter() - started
            self._go_on(batch)
        self.look()

    def _go_on(self, batch: list[Asked]) -> None:
        """Whatever became of the batch: who has no answer by now gets none, and nobody is left waiting for it."""
        for ticket, _ in batch:
            self._quota.fail(ticket)
        self._quota.wake()
        self._wake()

    async def _settle(self) -> None:
        rows = [self._unsettled.popleft() for _ in range(min(BATCH, len(self._unsettled)))]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.settle(rows)
        except Exception as problem:  # as above: what was used is not to be lost
            self._unsettled.extendleft(reversed(rows))
            self._lose(problem)
        finally:
            self._is_settling = False
        self.look()

    # --- without it ---

    def _lose(self, problem: Exception) -> None:
        """It is away: nobody waits for it until it is back."""
        self.figures.errors += 1
        self._tell(problem)
        if not self.figures.is_reachable:
            return
        self.figures.is_reachable = False
        self._quota.set_store(True, is_reachable=False, fallback=self._fallback)
        while batch := self._quota.asked(BATCH):
            for ticket, _ in batch:
                self._quota.fail(ticket)
        self._do(self._seek())

    def _tell(self, problem: Exception) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            reason = str(problem) or "no answer in time"
            _LOG.warning("the rate limit store is away: rule=%s error=%s", self._fallback, reason)

    async def _seek(self) -> None:
        """Until it is back."""
        pause_s, since_s = FIRST_PAUSE_S, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(max(self._timeout_s, 1.0)):
                    await self._store.probe()
                break
            except (StoreError, TimeoutError) as problem:
                self._tell(problem)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        away_s = asyncio.get_running_loop().time() - since_s
        self.figures.is_reachable = True
        self._quota.set_store(True, fallback=self._fallback)
        self._told_s = -TELL_S
        _LOG.info("the rate limit store is back: away_s=%.1f", away_s)
        self.look()
