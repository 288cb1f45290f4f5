"""One run: a load through one policy, what became of it, and what the servers and the machine did meanwhile."""

import asyncio
import itertools
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.live_overload import client
from benchmarks.live_overload.client import Played
from benchmarks.live_overload.machine import Machine, judged
from benchmarks.live_overload.stage import Policy, Stage, Used
from benchmarks.overload_report import GAVE_UP, LOST, Outcome, Window, quantile
from picker.sim.asked import Asked

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Ids:
    """What the servers' journal says of the ids the client knows. All but `cut` must be empty, or there is a fault.

    `unheard`: answered to the client, and no server has answered it. `twice`: answered by servers more than once.
    `leaked`: refused to the client, yet it reached a server. `cut`: ended by server or client before the answer did.
    """

    unheard: tuple[str, ...]
    twice: tuple[str, ...]
    leaked: tuple[str, ...]
    cut: tuple[str, ...]

    @property
    def objections(self) -> list[str]:
        named = (("unheard", self.unheard), ("answered twice", self.twice), ("refused but served", self.leaked))
        return [f"{len(ids)} requests {what} ({', '.join(ids[:3])})" for what, ids in named if ids]


@dataclass(frozen=True)
class Result:
    """Of one run. `work`: tokens per second that the servers computed while they were full."""

    played: Played
    window: Window
    work: float
    machine: Machine
    ids: Ids

    @property
    def outcomes(self) -> list[Outcome]:
        return self.played.outcomes

    @property
    def stall_s(self) -> float:
        """The longest time during the window in which no request got its first token."""
        inside = sorted(at_s for at_s in self.played.first_token_s if at_s in self.window)
        edges = [self.window.from_s, *inside, self.window.until_s]
        return max(after - before for before, after in itertools.pairwise(edges))


Act = Callable[[], Awaitable[None]]


async def run(
    stage: Stage,
    policy: Policy,
    load: Sequence[Asked],
    window: Window,
    *,
    name: str,
    full: Window | None = None,
    act: Act | None = None,
) -> Result:
    """Plays `load` through `policy`; `act` runs beside it from the beginning, and is over when it is.

    `full`: the part of the window in which work and CPU are measured, if not in all of it.
    """
    full = full or window
    address = stage.listener(policy)
    acting = asyncio.ensure_future(act()) if act else None
    measuring = asyncio.ensure_future(_measure(stage, full))
    played = await client.play(load, address, run=name, patience_s=PATIENCE_S)
    used, client_s, work = await measuring
    if acting:
        await acting
    machine = judged(used, client_s, full.seconds, policy.name, quantile(played.lag_s, 0.99))
    events = await asyncio.to_thread(stage.journalled)
    return Result(played, window, work / full.seconds, machine, compare(played.outcomes, events, name))


async def _measure(stage: Stage, window: Window) -> tuple[Used, float, int]:
    """CPU of the parts, of this process, and the servers' work, over the window."""
    await asyncio.sleep(window.from_s)
    used, own_s, work = stage.used(), _own_s(), await asyncio.to_thread(stage.work)
    await asyncio.sleep(window.seconds)
    return stage.used().since(used), _own_s() - own_s, await asyncio.to_thread(stage.work) - work


def _own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare(outcomes: Sequence[Outcome], events: Sequence[tuple[str, str]], name: str) -> Ids:
    """What client and servers say of the same requests, those of the run `name`."""
    begun = Counter(request_id for event, request_id in events if event == "begin")
    ended = Counter(request_id for event, request_id in events if event == "end")
    ids = {f"{name}-{outcome.number}": outcome for outcome in outcomes}
    return Ids(
        unheard=tuple(each for each, outcome in ids.items() if outcome.is_good and not ended[each]),
        twice=tuple(each for each in ids if ended[each] > 1),
        leaked=tuple(
            each for each, outcome in ids.items() if begun[each] and outcome.status not in (200, LOST, GAVE_UP)
        ),
        cut=tuple(each for each in ids if begun[each] > ended[each]),
    )
