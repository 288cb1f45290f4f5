"""The rate limits of a process: a quota for each configuration, with the rules and the store it says."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from picker._core.quotas import Quota
from picker.config.ratelimits import RateLimitPlan, StorePlan
from picker.errors import UsageError
from picker.quota.limiter import Limiter
from picker.quota.store import Store

__all__ = ["RateLimiting"]

CLOCK_S = 1.0
"""How often the clock of windows is compared with the machine's."""

_LOG = logging.getLogger("picker.quota")


class _Counted:
    """One configuration's."""

    def __init__(self, plan: RateLimitPlan) -> None:
        self.plan = plan
        self.quota = Quota(seed=_seed(plan.store), counters=plan.max_counters)
        self.quota.set_rules(plan.rules, bounds_output=plan.bounds_output)
        self.store: Store | None = None if plan.store is None else _open(plan.store)
        self.limiter: Limiter | None = None


class RateLimiting:
    """`plans`: by configuration, "" for that of all pools that have none of their own. Pools of one share its limits.

    Raises UsageError where a store cannot be used.
    """

    def __init__(self, plans: Mapping[str, RateLimitPlan]) -> None:
        self._counted = {name: _Counted(plan) for name, plan in plans.items()}
        self._set_clocks()

    def quota(self, pool: str) -> Quota:
        """That of the pool's configuration."""
        return self._counted.get(pool, self._counted[""]).quota

    @property
    def asks(self) -> bool:
        """Is there a store, so that `look` is to be called?"""
        return any(counted.store is not None for counted in self._counted.values())

    def start(self, stack: contextlib.AsyncExitStack, turn: Callable[[], None]) -> None:
        """Ask the stores from now on, until `stack` is closed.

        `turn` is called when requests may go on that waited for one.
        """
        for counted in self._counted.values():
            if counted.store is not None and counted.plan.store is not None:
                plan = counted.plan.store
                counted.limiter = Limiter(
                    counted.quota, counted.store, fallback=plan.on_failure, timeout_s=plan.timeout_s, wake=turn
                )
                stack.push_async_callback(counted.limiter.stop)
        clock = asyncio.get_running_loop().create_task(self._keep_clocks(), name="rate limit clock")
        stack.callback(clock.cancel)

    def prepare(self, name: str, plan: RateLimitPlan) -> Callable[[], None]:
        """What puts the plan in force: its rules. Raises ValueError or OverflowError for what cannot be."""
        counted = self._counted[name]
        Quota(seed=0, counters=1).set_rules(plan.rules)

        def put() -> None:
            if (plan.store, plan.max_counters) != (counted.plan.store, counted.plan.max_counters):
                _LOG.warning("rateLimits: store and maxCounters are taken over at the next start")
            counted.quota.set_rules(plan.rules, bounds_output=plan.bounds_output)

        return put

    def look(self) -> None:
        """See whether a store is to be asked something; costs little if not."""
        for counted in self._counted.values():
            if counted.limiter is not None:
                counted.limiter.look()

    def figures(self) -> list[dict[str, Any]]:
        """For the metrics page, of each configuration: `config`, `rules`, `counters` and more, `store` or None."""
        return list(self._figures())

    def _figures(self) -> Iterator[dict[str, Any]]:
        for name, counted in self._counted.items():
            store = None if counted.limiter is None else asdict(counted.limiter.figures)
            yield {"config": name, "rules": counted.quota.tallies(), **counted.quota.figures, "store": store}

    def _set_clocks(self) -> None:
        wall_ns = time.time_ns() - time.monotonic_ns()
        for counted in self._counted.values():
            counted.quota.set_clock(wall_ns)

    async def _keep_clocks(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_S)
            self._set_clocks()


def _seed(store: StorePlan | None) -> int:
    """Of the hashes of keys: the same in replicas that count together, else known to nobody."""
    if store is None:
        return secrets.randbits(64)
    return int.from_bytes(blake2b(store.prefix.encode(), digest_size=8).digest())


def _open(plan: StorePlan) -> Store:
    try:
        from picker.quota.redis import RedisStore  # here: whoever counts in memory needs no Redis client

        return RedisStore(plan)
    except ImportError:
        raise UsageError("rateLimits.store needs the redis package: pip install 'picker[redis]'") from None
    except ValueError as problem:
        raise UsageError(f"rateLimits.store.redis.url cannot be used: {problem}") from None
