"""Do both worlds agree: TTFT p50 of each policy within 15 %, and the same order of policies."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.results import Row
from picker.sim.figures import Figures

WITHIN = 0.15
APART = 0.10
"""Policies whose TTFT differs by less than this in the lab have no order that a live run could confirm."""
COMMAND = "make fidelity"
LIVE, LAB = "live", "virtual time"
RATIO = "TTFT p50, live / virtual time"


@dataclass(frozen=True)
class Pair:
    """One policy, seed by seed."""

    name: str
    live: Sequence[Figures]
    lab: Sequence[Figures]
    machine: Sequence[float] = ()  # share of it that was busy in each live run

    def ratios(self, what: str) -> list[float]:
        """Live over virtual time, seed by seed."""
        return [value(one, what) / value(other, what) for one, other in zip(self.live, self.lab, strict=True)]

    @cached_property
    def ratio(self) -> float:
        return statistics.median(self.ratios("p50"))

    @property
    def agrees(self) -> bool:
        return abs(self.ratio - 1) <= WITHIN

    def mean(self, world: str, what: str) -> float:
        """Of the seeds."""
        return statistics.mean(value(one, what) for one in (self.live if world == LIVE else self.lab))


def value(figures: Figures, what: str) -> float:
    """`what`: mean, p50, p90 or p99 of TTFT in milliseconds, hit (rate) or balance."""
    if what == "hit":
        return figures.hit_rate
    return figures.balance if what == "balance" else float(getattr(figures.ttft_ms, what))


def disorder(pairs: Sequence[Pair], what: str = "p50") -> list[str]:
    """Pairs of policies that are clearly apart in virtual time, and the other way round live."""
    found = []
    for one, other in itertools.combinations(pairs, 2):
        ahead, behind = sorted((one, other), key=lambda pair: pair.mean(LAB, what))
        if behind.mean(LAB, what) < ahead.mean(LAB, what) * (1 + APART):
            continue
        if behind.mean(LIVE, what) <= ahead.mean(LIVE, what):
            found.append(f"{ahead.name} is before {behind.name} in virtual time, behind it live (TTFT {what})")
    return found


def rows(pairs: Sequence[Pair]) -> list[Row]:
    """As results: what each world says, and the ratio with its spread over the seeds."""
    made = []
    for pair in pairs:
        for what, unit in (("p50", "ms"), ("mean", "ms"), ("p90", "ms"), ("hit", ""), ("balance", "")):
            said = f"TTFT {what}" if unit else {"hit": "hit rate", "balance": "balance"}[what]
            for world, figures in ((LIVE, pair.live), (LAB, pair.lab)):
                values = [value(one, what) for one in figures]
                made.append(_row(pair.name, f"{said}, {world}", values, unit))
        made.append(_row(pair.name, RATIO, pair.ratios("p50"), "×"))
    return made


def _row(who: str, what: str, values: Sequence[float], unit: str) -> Row:
    middle = statistics.median(values) if unit == "×" else statistics.mean(values)
    return Row("fidelity", what, who, middle, unit, COMMAND, min(values), max(values))


def table(rows: Sequence[Row]) -> list[str]:
    """The results in Markdown."""
    lines = [
        "| policy | TTFT p50: live | virtual time | live / virtual | TTFT mean | p90 | hit rate | balance |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for who in dict.fromkeys(row.who for row in rows):
        found = {row.what: row for row in rows if row.who == who}
        ratio = found[RATIO]
        verdict = "" if abs(ratio.value - 1) <= WITHIN else " **apart**"
        told = [f"{found[f'TTFT p50, {world}'].value:,.0f} ms" for world in (LIVE, LAB)]
        told.append(f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f}){verdict}")
        for what, form in (("TTFT mean", ",.0f"), ("TTFT p90", ",.0f"), ("hit rate", ".2f"), ("balance", ".2f")):
            both = " / ".join(format(found[f"{what}, {world}"].value, form) for world in (LIVE, LAB))
            told.append(f"{both} {found[f'{what}, {LIVE}'].unit}".strip())
        lines.append(f"| {who} | " + " | ".join(told) + " |")
    return lines
