"""Counters in a Redis or Valkey server: batches of reservations and settlements, each one round trip."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from picker.config.ratelimits import StorePlan
from picker.quota.scripts import RESERVE, SETTLE
from picker.quota.store import Answer, Asked, Settled, StoreError

__all__ = ["RedisStore"]

CONNECTIONS = 16
SETTLED_AT_ONCE = 256


class RedisStore:
    """`Store` by scripts, which Redis runs one at a time: all limits of a request are charged, or none."""

    def __init__(self, plan: StorePlan) -> None:
        more: dict[str, Any] = {} if plan.password is None else {"password": plan.password}
        self._redis: Redis = Redis.from_url(
            plan.url,
            max_connections=CONNECTIONS,
            socket_connect_timeout=plan.timeout_s,
            socket_timeout=plan.timeout_s,
            retry=Retry(NoBackoff(), 0),
            **more,
        )
        self._prefix = plan.prefix
        self._reserve = self._settle = ""  # digests of the scripts, once they are loaded

    async def reserve(self, batch: Sequence[Asked]) -> list[Answer]:
        calls = [
            ([self._key(counter) for counter, *_ in charges], [value for _, *rest in charges for value in rest])
            for _, charges in batch
        ]
        found = await self._run("_reserve", calls)
        return [Answer(refused, used, ends_ms, now_ms) for now_ms, refused, used, ends_ms in found]

    async def settle(self, rows: Sequence[Settled]) -> None:
        pieces = (rows[at : at + SETTLED_AT_ONCE] for at in range(0, len(rows), SETTLED_AT_ONCE))
        calls = [
            ([self._key(counter) for counter, *_ in piece], [value for _, *rest in piece for value in rest])
            for piece in pieces
        ]
        await self._run("_settle", calls)

    async def probe(self) -> None:
        try:
            self._reserve = await self._redis.script_load(RESERVE)
            self._settle = await self._redis.script_load(SETTLE)
        except (RedisError, OSError) as problem:
            raise StoreError(_told(problem)) from None

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, counter: int) -> str:
        """All in one slot of a cluster, as a script needs it."""
        return f"{{{self._prefix}}}:{counter:016x}"

    async def _run(self, script: str, calls: Sequence[tuple[list[str], list[int]]]) -> list[Any]:
        """One pipeline; once more where the server has been started anew, and has forgotten the scripts."""
        try:
            if not self._reserve:
                await self.probe()
            try:
                return await self._pipe(getattr(self, script), calls)
            except NoScriptError:
                await self.probe()
                return await self._pipe(getattr(self, script), calls)
        except (RedisError, OSError) as problem:
            raise StoreError(_told(problem)) from None

    async def _pipe(self, digest: str, calls: Sequence[tuple[list[str], list[int]]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for keys, values in calls:
                pipe.evalsha(digest, len(keys), *keys, *values)
            return list(await pipe.execute())


def _told(problem: Exception) -> str:
    """What happened, without what might be a secret: a URL may hold a password."""
    return f"{type(problem).__name__}: {problem}"[:200]
