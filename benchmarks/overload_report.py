"""What an overload experiment found, in virtual time or live: figures from outcomes, a table of them, CSV and JSON.

Times in seconds, rates in tokens per second; tokens are those of prompts and answers together. A request is *good* if
it was answered whole; of its work the prompt counts as goodput when its first token is there, the answer evenly from
then to the end.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

GAVE_UP = 499
"""The status of a request whose client lost patience."""
LOST = 0
"""The status of one that ended without an answer, or with half of one."""
REFUSED = (429, 503)
RECOVERY_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """What became of one request. `ttft_s`: from `at_s`, when it was due; None if it got no token."""

    number: int
    priority: int
    tenant: str
    at_s: float
    status: int
    ttft_s: float | None
    ended_s: float
    prompt_tokens: int
    output_tokens: int

    @property
    def is_good(self) -> bool:
        return self.status == 200

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def waited_s(self) -> float | None:
        """Time to the first token; for those who gave up before it, how long they waited: it would have been more."""
        if self.ttft_s is None and self.status == GAVE_UP:
            return self.ended_s - self.at_s
        return self.ttft_s


@dataclass(frozen=True)
class Window:
    """A time that counts: for requests that are due in it, or for tokens that are done in it."""

    from_s: float
    until_s: float

    def __contains__(self, at_s: float) -> bool:
        return self.from_s <= at_s < self.until_s

    @property
    def seconds(self) -> float:
        return self.until_s - self.from_s


@dataclass(frozen=True)
class Band:
    """One band of one run. Shares are of what was offered, 0 to 1."""

    priority: int
    offered: int
    good: int
    rejected: int
    gave_up: int
    failed: int
    ttft_p50_s: float
    ttft_p99_s: float
    goodput: float
    jain: float


@dataclass(frozen=True)
class Run:
    """One policy under one load. `capacity`: tokens per second the servers can do; `utilisation`: 0 to 1."""

    name: str
    bands: tuple[Band, ...]
    capacity: float
    utilisation: float
    recovery_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def goodput(self) -> float:
        return sum(band.goodput for band in self.bands)

    @property
    def share(self) -> float:
        """Goodput over capacity."""
        return self.goodput / self.capacity if self.capacity else 0.0


def quantile(values: Iterable[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed (nearest rank); NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


def fair_shares(demands: Mapping[str, float], total: float) -> dict[str, float]:
    """Who gets what of `total` if nobody's share can grow except at the cost of a smaller one (max-min fair)."""
    shares: dict[str, float] = {}
    left = total
    for place, (name, demand) in enumerate(sorted(demands.items(), key=lambda item: item[1])):
        shares[name] = min(demand, left / (len(demands) - place))
        left -= shares[name]
    return shares


def jain(values: Sequence[float]) -> float:
    """Jain's index: 1.0 if all are equal, 1/n if one has all; NaN of nothing."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


def fairness(outcomes: Iterable[Outcome], window: Window) -> float:
    """Jain's index over tenants, each one's goodput measured by its max-min fair share of all of it.

    So a tenant that wants less than its share, and gets it, is no unfairness.
    """
    wanted: dict[str, float] = defaultdict(float)
    got: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        if outcome.at_s in window:
            wanted[outcome.tenant] += outcome.tokens
            got[outcome.tenant] += outcome.tokens if outcome.is_good else 0
    shares = fair_shares(wanted, sum(got.values()))
    return jain([got[tenant] / share for tenant, share in shares.items() if share])


def summarise(outcomes: Sequence[Outcome], window: Window, full: Window | None = None) -> tuple[Band, ...]:
    """Figures of each band, the highest first. `full`: where goodput is measured, if not in all of the window."""
    by_band: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_band[outcome.priority].append(outcome)
    bands = sorted(by_band, reverse=True)
    return tuple(_band(priority, by_band[priority], window, full or window) for priority in bands)


def work(outcome: Outcome, window: Window) -> float:
    """Tokens of a good request that were done in the window."""
    if not outcome.is_good or outcome.ttft_s is None:
        return 0.0
    first_s = outcome.at_s + outcome.ttft_s
    inside_s = min(outcome.ended_s, window.until_s) - max(first_s, window.from_s)
    share = max(inside_s, 0.0) / max(outcome.ended_s - first_s, 1e-9)
    return outcome.prompt_tokens * (first_s in window) + outcome.output_tokens * min(share, 1.0)


def _band(priority: int, outcomes: Sequence[Outcome], window: Window, full: Window) -> Band:
    due = [outcome for outcome in outcomes if outcome.at_s in window]
    counts = Counter(outcome.status for outcome in due)
    waits = [wait for outcome in due if (wait := outcome.waited_s) is not None]
    refused = sum(counts[status] for status in REFUSED)
    return Band(
        priority,
        offered=len(due),
        good=counts[200],
        rejected=refused,
        gave_up=counts[GAVE_UP],
        failed=len(due) - counts[200] - refused - counts[GAVE_UP],
        ttft_p50_s=quantile(waits, 0.5),
        ttft_p99_s=quantile(waits, 0.99),
        goodput=sum(work(outcome, full) for outcome in outcomes) / full.seconds,
        jain=fairness(due, window),
    )


def recovery(outcomes: Iterable[Outcome], burst: Window, until_s: float, greedy: Collection[str] = ()) -> float:
    """Seconds from the end of the burst until the median wait is no more than what nine in ten waited before it.

    Looked at over two seconds at a time, to `until_s`; infinity if it never is. The `greedy` tenants are left out: they
    go on paying for what they asked.
    """
    waits = [
        (outcome.at_s, wait)
        for outcome in outcomes
        if outcome.tenant not in greedy and (wait := outcome.waited_s) is not None
    ]
    usual_s = quantile((wait for at_s, wait in waits if at_s < burst.from_s), 0.9)
    at_s = recovered_s = burst.until_s
    while at_s + RECOVERY_S <= until_s:
        window = Window(at_s, at_s + RECOVERY_S)
        if quantile((wait for due_s, wait in waits if due_s in window), 0.5) > usual_s:
            recovered_s = window.until_s
        at_s += RECOVERY_S / 4
    return recovered_s - burst.until_s if recovered_s < until_s else math.inf


# --- shown ---


def table(runs: Sequence[Run], title: str, unloaded_p99_s: float | None = None) -> Table:
    """A line for each band of each run. `unloaded_p99_s`: TTFT of the highest band when nothing else is there."""
    made = Table(title=title, title_justify="left", title_style="bold")
    made.add_column("policy")
    for name in ("band", "offered", "TTFT p50", "p99", "× unloaded", "good", "rejected", "gave up", "failed", "Jain"):
        made.add_column(name, justify="right")
    for name in ("goodput", "of capacity", "busy"):
        made.add_column(name, justify="right")
    for run in runs:
        for place, band in enumerate(run.bands):
            made.add_row(*_cells(run, place, band, unloaded_p99_s), end_section=place == len(run.bands) - 1)
    return made


def _cells(run: Run, place: int, band: Band, unloaded_p99_s: float | None) -> list[str]:
    is_first = place == 0
    times = f"{band.ttft_p99_s / unloaded_p99_s:.2f}" if is_first and unloaded_p99_s else ""
    whole = [f"{run.share:.1%}", f"{run.utilisation:.0%}"] if is_first else ["", ""]
    return [
        run.name if is_first else "",
        str(band.priority),
        str(band.offered),
        milliseconds(band.ttft_p50_s),
        milliseconds(band.ttft_p99_s),
        times,
        _share(band.good, band.offered),
        _share(band.rejected, band.offered),
        _share(band.gave_up, band.offered),
        str(band.failed),
        f"{band.jain:.3f}" if not math.isnan(band.jain) else "-",
        f"{band.goodput:,.0f}/s",
        *whole,
    ]


def milliseconds(seconds: float) -> str:
    """`-` for NaN."""
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:,.0f} ms"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def as_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """A flat row for each band of each run, for CSV and JSON; what is no number becomes None."""
    rows = []
    for run in runs:
        whole = {"run": run.name, "capacity": run.capacity, "share": run.share, "utilisation": run.utilisation}
        whole["recovery_s"] = run.recovery_s
        rows += [{**whole, **asdict(band)} for band in run.bands]
    return [{key: _told(value) for key, value in row.items()} for row in rows]


def _told(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, runs: Iterable[Run]) -> None:
    """The rows of `as_rows`; nothing is written if there are none."""
    rows = as_rows(runs)
    if rows:
        with path.open("w", newline="") as output:
            writer = csv.DictWriter(output, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def markdown(runs: Sequence[Run], unloaded_p99_s: float | None = None) -> str:
    """The same table for a page."""
    head = (
        "| policy | band | offered | TTFT p50 | p99 | × unloaded | good | rejected | gave up | failed | Jain | goodput"
    )
    lines = [f"{head} | of capacity | busy |", "| --- |" + " ---: |" * 13]
    for run in runs:
        for place, band in enumerate(run.bands):
            lines.append("| " + " | ".join(_cells(run, place, band, unloaded_p99_s)) + " |")
    return "\n".join(lines)
