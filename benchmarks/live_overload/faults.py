"""What goes wrong in the middle of an overload: metrics stop, the servers halve their pace, one of them dies.

Asked of each: no time longer than a second without a first token, and no request lost or answered twice. Those that a
server was answering when it died are lost with it, and told apart.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.live_overload import scene
from benchmarks.live_overload.run import Result, run
from benchmarks.live_overload.stage import Policy, Stage
from benchmarks.overload_report import LOST, Window, milliseconds, quantile
from picker.sim.overload.traffic import Phase

MOST_STALL_S = 1.0
LOAD = 1.5  # over what the servers can do when they are well


@dataclass(frozen=True)
class Fault:
    """`switches`: what changes at `servers` (None: all of them) for `seconds`."""

    name: str
    switches: dict[str, Any]
    seconds: float
    servers: tuple[int, ...] | None = None
    ends: bool = True


def faults(*, quick: bool) -> list[Fault]:
    """The deadly one is the last."""
    return [
        Fault("metrics stop", {"refuse_metrics": True}, 4 if quick else 30),
        Fault("half the pace", {"speed": 0.5}, 4 if quick else 12),
        Fault("a server dies", {"die": True}, 4 if quick else 12, servers=(0,), ends=False),
    ]


@dataclass(frozen=True)
class Seen:
    """What a fault did. TTFT of the highest band, p99, in seconds: before it, during it, after it."""

    fault: Fault
    result: Result
    ttft_p99_s: tuple[float, float, float]

    @property
    def lost_with_server(self) -> int:
        return len(self._lost() & set(self.result.ids.cut))

    def _lost(self) -> set[str]:
        name = _run_name(self.fault)
        return {f"{name}-{each.number}" for each in self.result.outcomes if each.status == LOST}

    @property
    def objections(self) -> list[str]:
        found = list(self.result.ids.objections)
        lost = self._lost() - (set() if self.fault.ends else set(self.result.ids.cut))
        if lost:
            found.append(f"{len(lost)} requests lost ({', '.join(sorted(lost)[:3])}): {self.result.played.errors[:2]}")
        if self.result.stall_s > MOST_STALL_S:
            found.append(f"no first token for {self.result.stall_s:.2f} s")
        return found


async def play(stage: Stage, policy: Policy, fault: Fault, *, rate: float, calm_s: float, seed: int) -> Seen:
    """Overload for `calm_s`, then with the fault, then for `calm_s` without (or, where it stays, with) it."""
    total_s = calm_s + fault.seconds + calm_s
    load = scene.load([Phase(total_s, LOAD)], rate, seed)
    act = _acts(stage, fault, calm_s)
    result = await run(stage, policy, load, Window(0, total_s), name=_run_name(fault), act=act)
    edges = (0.0, calm_s, calm_s + fault.seconds, total_s)
    windows = [Window(*pair) for pair in itertools.pairwise(edges)]
    return Seen(fault, result, tuple(_ttft_p99_s(result, window) for window in windows))  # type: ignore[arg-type]


def _run_name(fault: Fault) -> str:
    return fault.name.replace(" ", "-")


def _acts(stage: Stage, fault: Fault, after_s: float) -> Callable[[], Awaitable[None]]:
    servers = range(len(stage.servers)) if fault.servers is None else fault.servers
    healthy = {"refuse_metrics": False, "speed": 1.0}

    async def act() -> None:
        await asyncio.sleep(after_s)
        for server in servers:
            await asyncio.to_thread(stage.fault, server, **fault.switches)
        await asyncio.sleep(fault.seconds)
        for server in servers if fault.ends else ():
            await asyncio.to_thread(stage.fault, server, **healthy)

    return act


def _ttft_p99_s(result: Result, window: Window) -> float:
    highest = (each for each in result.outcomes if each.priority == scene.HIGHEST.priority and each.at_s in window)
    return quantile((wait for each in highest if (wait := each.waited_s) is not None), 0.99)


COLUMNS = ("fault", "for", "longest stall", "TTFT p99 of the highest band", "requests", "lost with it", "faults")


def _cells(each: Seen) -> list[str]:
    return [
        each.fault.name,
        f"{each.fault.seconds:g} s",
        f"{each.result.stall_s:.2f} s",
        " / ".join(milliseconds(seconds) for seconds in each.ttft_p99_s),
        f"{len(each.result.outcomes):,}",
        str(each.lost_with_server),
        "; ".join(each.objections) or "none",
    ]


def table(seen: Sequence[Seen]) -> Table:
    """A line for each fault. TTFT is that before, during and after it."""
    made = Table(title=f"{LOAD:g} times what the servers can do, and then", title_justify="left", title_style="bold")
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in ("fault", "faults") else "right")
    for each in seen:
        made.add_row(*_cells(each))
    return made


def markdown(seen: Sequence[Seen]) -> str:
    """The same table for a page."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, seen)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_rows(seen: Sequence[Seen]) -> list[dict[str, str]]:
    """The same for machines."""
    return [dict(zip(COLUMNS, _cells(each), strict=True)) for each in seen]
