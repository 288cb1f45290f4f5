"""Replicas that count together: on a real server, on one that is killed and comes back, on one that says nothing."""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from picker._core.quotas import Hold, Quota
from picker.quota.limiter import KEPT, Limiter
from picker.quota.redis import RedisStore
from picker.quota.store import Answer, Asked, Settled, StoreError
from tests.quota.test_store import plan_of
from tests.support.polling import until
from tests.support.redisserver import RedisServer
from tests.support.virtual_time import pass_time, virtual

KEY = b"x-api-key"
DAY_MS = 86_400_000


def rule(tokens: int, window: str = "day") -> dict[str, Any]:
    return {"name": "r", "source": ("header", KEY.decode()), "tiers": [[(window, tokens, (0, 1, 1, 1))]], "default": 0}


class Replica:
    """A quota and its limiter, without the sessions between."""

    def __init__(self, store: Any, *, tokens: int = 1000, fallback: str = "local", timeout_s: float = 5.0) -> None:
        self.quota = Quota(seed=7)
        self.quota.set_rules([rule(tokens)])
        self.limiter = Limiter(
            self.quota, store, fallback=fallback, timeout_s=timeout_s, wake=lambda: self.answered.set()
        )
        self.answered = asyncio.Event()

    async def reserve(self, tokens: int, key: bytes = b"a") -> tuple[str, Hold]:
        hold = self.quota.hold([(KEY, key)])
        assert hold is not None
        said = hold.reserve(b"m", tokens, 0, 0)
        while said == "waits":
            self.answered.clear()
            self.limiter.look()
            await self.answered.wait()
            said = hold.verdict(0)
        return said, hold

    async def request(self, estimate: int, usage: int) -> int:
        """What was used of it; 0 if it was refused."""
        said, hold = await self.reserve(estimate)
        await pass_time(0.0)
        if said != "ok":
            hold.give_back(0)
            usage = 0
        else:
            hold.settle(usage, 0, 0)
        self.limiter.look()
        return usage


def told(quota: Quota) -> int:
    (tally,) = quota.tallies()
    return int(tally["input"] + tally["output"])


async def used(replica: Replica) -> int:
    """By the store, in tokens."""
    await until(lambda: not replica.quota.is_due and not replica.limiter._unsettled and not replica.limiter._tasks)
    said, hold = await replica.reserve(1)
    if said == "limit":
        left = hold.shown(0)["tokens"]["remaining"]
        hold.give_back(0)
        return 1000 - left
    left = hold.shown(0)["tokens"]["remaining"]
    hold.give_back(0)
    replica.limiter.look()
    return 999 - left


@pytest.mark.parametrize("seed", range(2))
def test_two_replicas_share_a_limit(shared_server: RedisServer, seed: int) -> None:
    """By exact estimates not one token too many goes, however many ask at once; and hardly one too few."""

    async def run() -> None:
        plan = plan_of(shared_server)
        replicas = [Replica(RedisStore(plan)) for _ in range(2)]
        rng = random.Random(seed)
        sizes = [rng.randrange(1, 20) for _ in range(300)]
        went = await asyncio.gather(*(replicas[rng.randrange(2)].request(size, size) for size in sizes))
        assert 1000 - min(sizes) - 20 < sum(went) <= 1000
        assert sum(told(replica.quota) for replica in replicas) == sum(went)
        assert await used(replicas[0]) == sum(went)
        for replica in replicas:
            await replica.limiter.stop()
            assert replica.quota.figures["holds"] == 0

    asyncio.run(run())


def test_they_overshoot_by_less_than_what_is_in_flight(shared_server: RedisServer) -> None:
    """Where an estimate of 5 becomes a usage of up to 9, only what was under way at the limit is beyond it."""

    async def run() -> None:
        plan = plan_of(shared_server)
        replicas = [Replica(RedisStore(plan)) for _ in range(2)]
        rng = random.Random(3)
        in_flight = 4
        gate = asyncio.Semaphore(in_flight)

        async def one(number: int) -> int:
            async with gate:
                return await replicas[number % 2].request(5, rng.randrange(1, 10))

        went = sum(await asyncio.gather(*(one(number) for number in range(400))))
        assert 1000 - 5 <= went < 1000 + in_flight * (9 - 5)
        assert await used(replicas[1]) == min(went, 1000)
        for replica in replicas:
            await replica.limiter.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("fallback", "without"), [("local", 400), ("failOpen", 5000), ("failClosed", 0)])
def test_a_server_that_is_killed_and_comes_back(own_server: RedisServer, fallback: str, without: int) -> None:
    async def run() -> None:
        replica = Replica(RedisStore(plan_of(own_server)), fallback=fallback)
        assert await replica.request(600, 600) == 600
        own_server.kill()
        assert sum([await replica.request(100, 100) for _ in range(50)]) == without
        figures = replica.limiter.figures
        assert not figures.is_reachable and figures.errors == 1
        own_server.start()  # and what it knew is lost
        await until(lambda: figures.is_reachable)
        assert sum([await replica.request(100, 100) for _ in range(50)]) == 1000
        await replica.limiter.stop()

    asyncio.run(run())


def test_a_server_that_says_nothing(own_server: RedisServer) -> None:
    async def run() -> None:
        replica = Replica(RedisStore(plan_of(own_server)), timeout_s=0.05)
        assert await replica.request(600, 600) == 600
        own_server.pause()
        assert [await replica.request(300, 300) for _ in range(2)] == [300, 0]
        own_server.pause(False)
        await until(lambda: replica.limiter.figures.is_reachable)
        assert (await replica.reserve(500))[0] == "limit"
        await replica.limiter.stop()

    asyncio.run(run())


class FakeStore:
    """Answers yes when it is let, and tells what it was asked; `problem` is raised instead."""

    def __init__(self) -> None:
        self.batches: list[list[Asked]] = []
        self.settled: list[Settled] = []
        self.probes = 0
        self.problem: Exception | None = None
        self.delay_s = 0.0

    async def _do(self) -> None:
        await pass_time(self.delay_s)
        if self.problem is not None:
            raise self.problem

    async def reserve(self, batch: Sequence[Asked]) -> list[Answer]:
        self.batches.append(list(batch))
        await self._do()
        return [Answer(-1, [cost for *_, cost, _ in charges], [DAY_MS] * len(charges), 0) for _, charges in batch]

    async def settle(self, rows: Sequence[Settled]) -> None:
        await self._do()
        self.settled += rows

    async def probe(self) -> None:
        self.probes += 1
        await self._do()

    async def close(self) -> None:
        pass


@virtual
async def test_one_turn_of_the_loop_is_one_batch() -> None:
    store = FakeStore()
    replica = Replica(store)
    await gathered(replica.request(1, 2) for _ in range(20))
    assert [len(batch) for batch in store.batches] == [20]
    await pass_time(1.0)
    assert len(store.settled) == 20
    await replica.limiter.stop()


async def gathered(works: Any) -> list[Any]:
    works = list[Awaitable[Any]](works)
    return list(await asyncio.gather(*works))


@virtual
async def test_a_store_that_is_away_is_looked_for_ever_less_often() -> None:
    store = FakeStore()
    store.problem = StoreError("no")
    replica = Replica(store)
    assert await gathered(replica.request(600, 600) for _ in range(2)) == [600, 0]
    await pass_time(60.0)
    assert 10 < store.probes < 20
    assert [len(batch) for batch in store.batches] == [2], "nobody asks while it is away"
    store.problem = None
    await pass_time(5.1)
    assert replica.limiter.figures.is_reachable
    assert await replica.request(1, 1) == 1
    await replica.limiter.stop()


@virtual
async def test_what_could_not_be_told_is_told_later() -> None:
    store = FakeStore()
    replica = Replica(store)
    _, hold = await replica.reserve(10)
    store.problem = StoreError("no")
    hold.settle(4, 0, 0)
    replica.limiter.look()
    await pass_time(1.0)
    assert store.settled == [] and not replica.limiter.figures.is_reachable
    store.problem = None
    await pass_time(5.1)
    assert [change for *_, change in store.settled] == [-6000]
    await replica.limiter.stop()


@virtual
async def test_a_batch_takes_no_longer_than_it_may() -> None:
    store = FakeStore()
    store.delay_s = 3600.0
    replica = Replica(store, timeout_s=0.1)
    started = asyncio.get_running_loop().time()
    assert await gathered(replica.request(1, 1) for _ in range(3000)) == [1] * 1000 + [0] * 2000
    assert asyncio.get_running_loop().time() - started < 0.2
    await replica.limiter.stop()


@virtual
async def test_settlements_that_wait_are_bounded() -> None:
    replica = Replica(FakeStore())
    replica.limiter._unsettled.extend([(1, DAY_MS, DAY_MS, 1)] * (KEPT + 5))
    replica.limiter.look()
    await pass_time(0.001)
    assert replica.limiter.figures.lost == 5
    await replica.limiter.stop()


@virtual
@pytest.mark.parametrize(
    "problem", [RuntimeError("a bug of the client's"), TypeError("an answer that is none")], ids=repr
)
async def test_whatever_a_store_raises_nobody_waits_for_it(problem: Exception) -> None:
    store = FakeStore()
    store.problem = problem
    replica = Replica(store)
    async with asyncio.timeout(1.0):
        assert await replica.request(1, 1) == 1
    assert not replica.limiter.figures.is_reachable
    await replica.limiter.stop()


@virtual
async def test_who_waits_when_it_stops_goes_on() -> None:
    store = FakeStore()
    store.delay_s = 3600.0
    replica = Replica(store, timeout_s=7200.0)
    asked = asyncio.ensure_future(replica.request(1, 1))
    await pass_time(1.0)
    replica.limiter._tasks.copy().pop().cancel()
    async with asyncio.timeout(1.0):
        assert await asked == 1
    await replica.limiter.stop()
