"""When picker asks for traffic, in virtual time."""

import asyncio

from picker.extproc.readiness import Readiness
from picker.standing import Standing
from tests.support.virtual_time import pass_time, virtual

SECOND = 1_000_000_000


def now_ns() -> int:
    return round(asyncio.get_running_loop().time() * SECOND)


class Stood:
    """A standing, and each change of readiness it came to."""

    def __init__(self, *, must_lead: bool = False) -> None:
        self.readiness = Readiness()
        self.told: list[bool] = []
        self.readiness.subscribe(self.told.append)
        self.standing = Standing(self.readiness, must_lead=must_lead, clock_ns=now_ns)


@virtual
async def test_what_is_known_is_enough_where_nobody_leads() -> None:
    stood = Stood()
    stood.standing.lead(0)
    assert stood.told == [False]
    stood.standing.set_synced(True)
    assert stood.told == [False, True]
    stood.standing.set_synced(False)
    assert stood.told == [False, True, False]


@virtual
async def test_one_that_must_lead_asks_for_traffic_while_it_does() -> None:
    stood = Stood(must_lead=True)
    stood.standing.set_synced(True)
    assert stood.told == [False]
    stood.standing.lead(now_ns() + SECOND)
    assert stood.told == [False, True]
    stood.standing.lead(0)
    assert stood.told == [False, True, False]


@virtual
async def test_a_leader_that_knows_nothing_asks_for_none() -> None:
    stood = Stood(must_lead=True)
    stood.standing.lead(now_ns() + SECOND)
    assert stood.told == [False]


@virtual
async def test_a_lead_that_is_renewed_goes_on() -> None:
    stood = Stood(must_lead=True)
    stood.standing.set_synced(True)
    for _ in range(5):
        stood.standing.lead(now_ns() + SECOND)
        await pass_time(0.9)
    assert stood.told == [False, True]


@virtual
async def test_a_lead_that_nobody_renews_ends_by_itself() -> None:
    stood = Stood(must_lead=True)
    stood.standing.set_synced(True)
    stood.standing.lead(now_ns() + SECOND)
    await pass_time(0.99)
    assert stood.readiness.is_ready
    await pass_time(0.02)
    assert stood.told == [False, True, False]
    stood.standing.lead(now_ns() + SECOND)
    assert stood.told == [False, True, False, True]


@virtual
async def test_nothing_makes_one_that_drains_ask_again() -> None:
    stood = Stood(must_lead=True)
    stood.standing.set_synced(True)
    stood.standing.lead(now_ns() + SECOND)
    stood.standing.drain()
    stood.standing.set_synced(True)
    stood.standing.lead(now_ns() + 2 * SECOND)
    assert stood.told == [False, True, False]
