"""How figures of the lab are shown: a table, and CSV."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from picker.sim.figures import Figures, Spread

ORACLE = "oracle"
HEADS = (
    "policy", "rejected", "failed", "hit", "captured", "available", "TTFT mean", "p50", "p90", "p99", "regret",
    "e2e mean", "p99", "tokens/s", "balance", "wall",
)  # fmt: skip


def table(found: Sequence[Figures], title: str) -> Table:
    """A line for each policy. Regret: of the mean TTFT, against the oracle's if it is among them."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for head in HEADS:
        made.add_column(head, justify="left" if head == "policy" else "right", no_wrap=head == "policy")
    for cells in rows(found):
        made.add_row(*cells)
    return made


def rows(found: Sequence[Figures]) -> Iterator[list[str]]:
    """The cells of the table."""
    best_ms = next((one.ttft_ms.mean for one in found if one.policy == ORACLE), math.nan)
    for one in found:
        yield [
            one.policy,
            str(one.rejected),
            str(one.failed),
            *(f"{share:.3f}" for share in (one.hit_rate, one.hit_captured, one.hit_available)),
            *_times(one.ttft_ms),
            milliseconds(one.ttft_ms.mean - best_ms),
            milliseconds(one.e2e_ms.mean),
            milliseconds(one.e2e_ms.p99),
            f"{one.output_tokens_per_s:,.0f}",
            "-" if math.isnan(one.balance) else f"{one.balance:.2f}",
            f"{one.wall_s:.1f} s",
        ]


def _times(spread: Spread) -> list[str]:
    return [milliseconds(value) for value in (spread.mean, spread.p50, spread.p90, spread.p99)]


def milliseconds(value: float) -> str:
    """`-` for NaN; seconds from ten of them on."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f} ms" if abs(value) < 9_999.5 else f"{value / 1e3:,.1f} s"


def write_csv(path: Path, found: Sequence[Figures]) -> None:
    """The JSON's fields, a line for each policy; times as `ttft_ms_mean`. Raises OSError."""
    flat = [dict(_flat(one.told())) for one in found]
    with path.open("w", newline="", encoding="utf-8") as output:
        writer = csv.DictWriter(output, fieldnames=list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)


def _flat(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{inner}", part) for inner, part in value.items())
        else:
            yield name, value
