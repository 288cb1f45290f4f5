"""What the two halves achieved: the table on the terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from picker.demo.load import Outcome
from picker.demo.stage import Counters


@dataclass(frozen=True)
class Half:
    """One half of the demo. `work` holds a difference of counters for each model server."""

    title: str
    outcome: Outcome
    work: tuple[Counters, ...]
    machine_busy: float  # 0 to 1, all CPUs: near 1 the figures say more about this machine than about routing
    picker_cpu_s: float | None = None
    gateway_failures: int = 0

    @property
    def hit_rate(self) -> float:
        queries = sum(counters.prefix_queries for counters in self.work)
        return sum(counters.prefix_hits for counters in self.work) / max(queries, 1)

    @property
    def balance(self) -> float:
        """Busiest server's work over the mean: 1.0 is even."""
        work = [counters.work for counters in self.work]
        return max(work) * len(work) / max(sum(work), 1)

    @property
    def tokens_per_s(self) -> float:
        return self.outcome.tokens / max(self.outcome.took_s, 1e-9)

    @property
    def errors(self) -> int:
        return self.outcome.errors + self.gateway_failures

    def ttft_s(self, share: float) -> float:
        return quantile(self.outcome.ttft_s, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed (nearest rank); 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else 0.0


def table(before: Half, after: Half) -> Table:
    """`before` (round robin) beside `after` (picker)."""
    result = Table(title="The same load, the same servers", title_style="bold", title_justify="left")
    result.add_column("")
    for half in (before, after):
        result.add_column(half.title, justify="right")
    result.add_column("", justify="right")
    for name, old, new, unit in (
        ("time to first token, p50", before.ttft_s(0.5) * 1e3, after.ttft_s(0.5) * 1e3, "ms"),
        ("time to first token, p99", before.ttft_s(0.99) * 1e3, after.ttft_s(0.99) * 1e3, "ms"),
        ("output tokens per second", before.tokens_per_s, after.tokens_per_s, ""),
    ):
        change = f"{(new / old - 1) * 100:+.0f} %" if old else ""
        result.add_row(name, f"{old:,.0f} {unit}".strip(), f"{new:,.0f} {unit}".strip(), change)
    result.add_row("prefix-cache hit rate", f"{before.hit_rate * 100:.1f} %", f"{after.hit_rate * 100:.1f} %", "")
    result.add_row("balance of work, max / mean", f"{before.balance:.2f}", f"{after.balance:.2f}", "1.00 is even")
    result.add_row("requests", str(before.outcome.requests), str(after.outcome.requests), "")
    result.add_row("errors", str(before.errors), str(after.errors), "")
    result.add_row("picker's CPU per request", "-", _cpu(after), "")
    result.add_row(
        "this machine's CPUs busy", f"{before.machine_busy * 100:.0f} %", f"{after.machine_busy * 100:.0f} %", ""
    )
    return result


def _cpu(half: Half) -> str:
    if half.picker_cpu_s is None or not half.outcome.requests:
        return "-"
    return f"{half.picker_cpu_s / half.outcome.requests * 1e3:.1f} ms"
