"""What was kept of benchmarks, by commit: the history drawn, and the current table, as pictures and Markdown.

`make bench-report [ARGS=--publish]`, or `python -m benchmarks.report`. `make bench` keeps times and figures in
`build/bench/<commit>.json`, `make bench-gate` instructions in `build/bench/ir/<commit>.json`; this writes report.md,
history.png and table.png beside. `--publish`: the current figures are those that the docs show from now on.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks import results
from benchmarks.results import ROOT, Row
from benchmarks.tables import full_table

FOLDER = ROOT / "build" / "bench"
COMMAND = "make bench"
UNITS = {"us": "µs", "x": "×"}


@dataclass(frozen=True)
class Kept:
    """Of one commit. `costs`: what is drawn, by what it is of; `rows`: what is shown."""

    commit: str
    at_s: float
    costs: Mapping[str, float]
    rows: Sequence[Row] = ()


def timed(folder: Path) -> list[Kept]:
    """Runs of `make bench`, the oldest first: the least time of each test."""
    return _by_age(_timed(path) for path in folder.glob("*.json"))


def _timed(path: Path) -> Kept | None:
    kept = json.loads(path.read_text())
    costs = {one["name"]: float(one["stats"]["min"]) for one in kept["benchmarks"]}
    rows = [row_of(figure, path.stem) for figure in kept.get("figures", ())]
    return Kept(path.stem, datetime.fromisoformat(kept["datetime"]).timestamp(), costs, rows) if rows else None


def row_of(figure: Mapping[str, Any], commit: str) -> Row:
    """A figure of `make bench` as it is published."""
    group, _, what = figure["what"].partition(": ")
    sign = ">=" if figure["higher_is_better"] else "<="
    target = "" if figure["limit"] is None else f"{sign} {figure['limit']:g}"
    unit = UNITS.get(figure["unit"], figure["unit"])
    return Row(group, what, "", figure["measured"], unit, COMMAND, target=target, commit=commit)


def counted(folder: Path) -> list[Kept]:
    """Runs of the whole gate, the oldest first: instructions of each case."""
    return _by_age(_counted(path) for path in folder.glob("*.json"))


def _counted(path: Path) -> Kept:
    kept = json.loads(path.read_text())
    return Kept(kept["commit"], kept["at"], kept["cases"])


def _by_age(found: Any) -> list[Kept]:
    return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.at_s)


def by_module(history: Sequence[Kept]) -> dict[str, list[float | None]]:
    """For each module and commit, what its cases cost over what they cost first, in the geometric mean."""
    first: dict[str, float] = {}
    for kept in history:
        for name, cost in kept.costs.items():
            first.setdefault(name, cost)
    modules: dict[str, list[float | None]] = defaultdict(lambda: [None] * len(history))
    for place, kept in enumerate(history):
        ratios = defaultdict(list)
        for name, cost in kept.costs.items():
            if cost > 0 and first[name] > 0 and (module := module_of(name)):
                ratios[module].append(cost / first[name])
        for module, found in ratios.items():
            modules[module][place] = statistics.geometric_mean(found)
    return dict(sorted(modules.items()))


def module_of(name: str) -> str:
    """What a case is about: `radix` of `radix: match`, and of `test_case[radix: match]`; "" of other tests."""
    case = name.removeprefix("test_case[")
    return "" if case == name and name.startswith("test_") else case.partition(":")[0]


# --- drawn ---


def draw_history(histories: Mapping[str, Sequence[Kept]], path: Path) -> None:
    """A panel for each kind of cost: a line for each module, 1.0 being what it first was."""
    figure, panels = plt.subplots(len(histories), 1, figsize=(11, 4 * len(histories)), squeeze=False)
    for panel, (title, history) in zip(panels[:, 0], histories.items(), strict=True):
        ticks = [kept.commit[:7] + ("*" if kept.commit.endswith("-dirty") else "") for kept in history]
        for module, line in by_module(history).items():
            panel.plot(range(len(line)), [one if one is not None else float("nan") for one in line], "o-", label=module)
        panel.set(title=title, ylabel="of what it was first")
        panel.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right", fontsize=7)
        panel.axhline(1.0, color="grey", linewidth=0.8)
        panel.legend(ncols=6, fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_table(rows: Sequence[Row], path: Path) -> None:
    """The current figures beside their targets."""
    cells = [[f"{row.group}: {row.what}", results.figure(row), results.goal(row).replace("**", "")] for row in rows]
    figure, panel = plt.subplots(figsize=(12, 0.22 * len(cells) + 0.8))
    panel.axis("off")
    table = panel.table(
        cells, colLabels=["figure", "measured", "target"], cellLoc="left", colWidths=[0.6, 0.2, 0.2], loc="center"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for place, row in enumerate(rows, 1):
        if row.met is not None:
            table[place, 2].get_text().set_color("darkgreen" if row.met else "darkred")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def markdown(current: Kept, histories: Mapping[str, Sequence[Kept]]) -> str:
    """The whole report."""
    parts = [f"# Benchmarks at {current.commit}\n", "![history](history.png)\n"]
    for title, history in histories.items():
        parts.append(f"## {title}, of what it was first\n\n{history_table(history)}\n")
    parts.append("## Current figures\n\n" + full_table(current.rows))
    return "\n".join(parts)


def history_table(history: Sequence[Kept], most: int = 8) -> str:
    """The last commits, a column each."""
    shown = history[-most:]
    lines = ["| module | " + " | ".join(kept.commit[:7] for kept in shown) + " |", "| --- |" + " ---: |" * len(shown)]
    for module, line in by_module(history).items():
        cells = ["" if one is None else f"{one:.3f}" for one in line[-most:]]
        lines.append(f"| {module} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--publish", action="store_true", help="let the docs show the current figures (then make docs)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they are kept (%(default)s)")
    asked = parser.parse_args(arguments)
    times, counts = timed(asked.folder), counted(asked.folder / "ir")
    if not times:
        print(f"nothing is kept in {asked.folder}: run `make bench` first", file=sys.stderr)
        return 1
    histories = {"time (least of many; noisy)": times} | (
        {"instructions in the core (exact)": counts} if counts else {}
    )
    draw_history(histories, asked.folder / "history.png")
    draw_table(times[-1].rows, asked.folder / "table.png")
    (asked.folder / "report.md").write_text(markdown(times[-1], histories))
    kept = f"{len(times)} runs of bench, {len(counts)} of bench-gate"
    print(f"{asked.folder / 'report.md'}, history.png and table.png: {kept}")
    if asked.publish:
        print(f"{results.write('core', times[-1].rows)}; `make docs` shows it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
