"""The scripts on a real server: all limits or none, windows by the server's clock, what is settled when."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from picker.config.ratelimits import StorePlan
from picker.quota.redis import RedisStore
from picker.quota.store import StoreError
from tests.support.redisserver import RedisServer

DAY_MS = 86_400_000
MINUTE_MS = 60_000
_prefixes = (f"test-{number}" for number in itertools.count())


def plan_of(server: RedisServer, prefix: str = "", timeout_s: float = 5.0) -> StorePlan:
    return StorePlan(server.url, prefix or next(_prefixes), timeout_s, "local")


def on_store(server: RedisServer, work: Callable[[RedisStore], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = RedisStore(plan_of(server))
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


async def refused(store: RedisStore, *charges: tuple[int, int, int, int]) -> int:
    (answer,) = await store.reserve([(1, charges)])
    return answer.refused


def test_all_limits_are_charged_or_none(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        requests, tokens = (1, DAY_MS, 1000, 5000), (2, DAY_MS, 4000, 10_000)
        (answer,) = await store.reserve([(7, (requests, tokens))])
        assert (answer.refused, answer.used) == (-1, [1000, 4000])
        assert all(0 < end - answer.store_ms <= DAY_MS and end % DAY_MS == 0 for end in answer.ends_ms)
        first, second, third = await store.reserve([(n, (requests, tokens)) for n in (8, 9, 10)])
        assert (first.refused, second.refused, third.refused) == (-1, 1, 1)
        assert second.used == third.used == [2000, 8000]
        assert await refused(store, (2, DAY_MS, 2000, 10_000)) == -1
        assert await refused(store, (2, DAY_MS, 0, 10_000)) == 0, "nothing is left"

    on_store(shared_server, work)


def test_the_limit_that_lasts_longest_is_told(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        assert await refused(store, (1, MINUTE_MS, 5, 1), (2, DAY_MS, 5, 1), (3, MINUTE_MS, 5, 1)) == 1

    on_store(shared_server, work)


def test_settling(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        (answer,) = await store.reserve([(1, ((1, DAY_MS, 6000, 10_000),))])
        (end,) = answer.ends_ms
        await store.settle([(1, DAY_MS, end, -2000), (1, DAY_MS, end, -1500)])
        assert await used(store) == 2500
        await store.settle([(1, DAY_MS, end, 500), (1, DAY_MS, end - DAY_MS, -900), (1, DAY_MS, end - DAY_MS, 4000)])
        assert await used(store) == 7000, "given back to a day that has passed is nobody's, used beyond it counts now"
        await store.settle([(1, DAY_MS, end, -(10**9))])
        assert await used(store) == 0

    on_store(shared_server, work)


async def used(store: RedisStore, counter: int = 1) -> int:
    (answer,) = await store.reserve([(1, ((counter, DAY_MS, 1, 0),))])
    return answer.used[0]


def test_a_window_that_has_passed_counts_no_more(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        client = Redis.from_url(shared_server.url)
        (answer,) = await store.reserve([(1, ((1, DAY_MS, 9000, 10_000),))])
        (key,) = await client.keys(f"*{store._prefix}*")
        assert 0 < await client.pttl(key) <= answer.ends_ms[0] - answer.store_ms + 1000
        await client.hset(key, "e", answer.ends_ms[0] - DAY_MS)  # as if it had been yesterday
        assert await refused(store, (1, DAY_MS, 9000, 10_000)) == -1
        assert await used(store) == 9000
        await client.aclose()

    on_store(shared_server, work)


def test_large_figures_stay_exact(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        most = 2**53 - 1
        assert await refused(store, (1, DAY_MS, most - 1, most)) == -1
        assert [await refused(store, (1, DAY_MS, 1, most)) for _ in range(2)] == [-1, 0]

    on_store(shared_server, work)


def test_a_server_that_forgets_its_scripts(shared_server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        assert await refused(store, (1, DAY_MS, 1000, 2000)) == -1
        client = Redis.from_url(shared_server.url)
        await client.script_flush()
        await client.aclose()
        assert [await refused(store, (1, DAY_MS, 1000, 2000)) for _ in range(2)] == [-1, 0]

    on_store(shared_server, work)


def test_a_server_that_is_not_there(own_server: RedisServer) -> None:
    own_server.kill()

    async def work(store: RedisStore) -> None:
        for call in (store.reserve([(1, ((1, DAY_MS, 1, 1),))]), store.settle([(1, DAY_MS, 0, 1)]), store.probe()):
            with pytest.raises(StoreError, match="ConnectionError"):
                await call

    on_store(own_server, work)


def test_a_password_is_never_told(own_server: RedisServer) -> None:
    own_server.kill()
    plan = StorePlan(own_server.url.replace("//", "//:secret1@"), "p", 1.0, "local", password="secret2")
    assert "secret" not in repr(plan)

    async def run() -> None:
        store = RedisStore(plan)
        with pytest.raises(StoreError) as told:
            await store.probe()
        assert "secret" not in str(told.value)
        await store.close()

    asyncio.run(run())
