"""The closing table, and the same as JSON."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import results
from benchmarks.load import registry
from benchmarks.load.options import ROOT
from benchmarks.load.row import Row, shown


def circumstances() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "cpus": os.cpu_count(),
        "cpu": cpu[0] if cpu else platform.processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "others": {},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def show(rows: Sequence[Row], around: Mapping[str, Any], failures: Mapping[str, str]) -> None:
    """One table of everything that was measured; what could not be is said below it."""
    table = Table(title="picker under load", title_justify="left", caption=_caption(around), caption_justify="left")
    for name in ("figure", "picker"):
        table.add_column(name, overflow="fold")
    for name in ("median", "min – max", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("how", style="dim", overflow="fold", max_width=44)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*_cells(row), end_section=following is None or following.group != row.group)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=170, highlight=False)
    console.print(table)
    for name, failure in failures.items():
        console.print(f"[bold red]{name}: not measured:[/] {escape(failure)}")


def _cells(row: Row) -> tuple[str, ...]:
    style = {None: "", True: "green", False: "bold red"}[row.met]
    spread = f"{shown(min(row.samples))} – {shown(max(row.samples))}" if len(row.samples) > 1 else ""
    verdict = f"[{style}]{row.verdict}[/]" if style else ""
    what = f"[bold]{row.group}[/] {row.what}"
    return what, row.variant, f"{shown(row.median)} {row.unit}".strip(), spread, row.target, verdict, row.note


def _caption(around: Mapping[str, Any]) -> str:
    return (
        f"{around['cpus']} CPUs ({around['cpu']}), Linux {around['kernel']}, Python {around['python']}, "
        f"commit {around['commit']}; nothing is pinned; of the machine, others used " + _others(around["others"])
    )


def _others(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} ({name})" for name, share in shares.items())


def save(
    path: Path, rows: Sequence[Row], around: Mapping[str, Any], failures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """`circumstances`, `rows` and `failures` (by group) as JSON; the rows.

    Groups that an earlier run of the same commit measured, and this one did not, are kept.
    """
    measured = {row.group for row in rows}
    kept = [row for row in _earlier(path, around["commit"]) if row["group"] not in measured]
    told = [*kept, *(row.as_json() for row in rows)]
    content = {"circumstances": around, "rows": told, "failures": failures}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return told


def _earlier(path: Path, commit: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    return list(content["rows"]) if content["circumstances"]["commit"] == commit else []


def publish(told: Sequence[Mapping[str, Any]], name: str, folder: Path = results.FOLDER) -> None:
    """These rows among the published results `name`; groups that were not measured stay as they are."""
    measured = {row["group"] for row in told}
    kept = [row for row in results.rows(name, folder) if row.group not in measured]
    results.write(name, [*kept, *map(_published, told)], folder)


def _published(row: Mapping[str, Any]) -> results.Row:
    sign = ">=" if row["at_least"] else "<="
    is_spread = len(row["samples"]) > 1
    return results.Row(
        row["group"],
        row["what"] + (f" ({row['note']})" if row["note"] else ""),
        row["variant"],
        row["median"],
        row["unit"],
        "make bench-load" + (f" ARGS={row['group']}" if row["group"] in registry.ON_REQUEST else ""),
        row["min"] if is_spread else None,
        row["max"] if is_spread else None,
        "" if row["limit"] is None else f"{sign} {row['limit']:g}",
    )
