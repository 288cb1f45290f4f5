"""The closing table, and the same as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
        "load_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def show(rows: Sequence[Row], around: Mapping[str, Any], failures: Mapping[str, str]) -> None:
    """One table of everything that was measured; what could not be is said below it."""
    table = Table(title="load", title_justify="left", caption=_caption(around), caption_justify="left")
    for name, justify in (("figure", "left"), ("median", "right"), ("min – max", "right"), ("target", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    table.add_column("", no_wrap=True)
    for index, row in enumerate(rows):
        style = {None: "", True: "green", False: "bold red"}[row.met]
        spread = f"{shown(min(row.samples))} – {shown(max(row.samples))}"
        last_of_group = index + 1 == len(rows) or rows[index + 1].group != row.group
        what = f"{row.group}: {row.what}" + (f" ({row.note})" if row.note else "")
        verdict = f"[{style}]{row.verdict}[/]" if style else ""
        table.add_row(what, f"{shown(row.median)} {row.unit}", spread, row.target, verdict, end_section=last_of_group)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for name, failure in failures.items():
        console.print(f"[bold red]{name}: not measured:[/] {failure}", highlight=False)


def _caption(around: Mapping[str, Any]) -> str:
    return (
        f"{around['cpus']} CPUs ({around['cpu']}), Linux {around['kernel']}, Python {around['python']}, "
        f"commit {around['commit']}; nothing is pinned, load before {around['load_before']:.1f}"
    )


def save(path: Path, rows: Sequence[Row], around: Mapping[str, Any], failures: Mapping[str, str]) -> None:
    """`circumstances`, `rows` and `failures` (by group) as JSON."""
    content = {"circumstances": around, "rows": [row.as_json() for row in rows], "failures": failures}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
