"""Writes the tables of docs/peers.md from the published results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.results import ROOT, Row, figure, goal, placed

PAGE = ROOT / "docs" / "peers.md"
GROUPS = {"hashing": "hashing", "prefix index": "match", "whole pick": "pick", "whole routers": "routers"}
"""Group of the results to the name of its place on the page."""


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Puts each group's table where the page marks a place for it."""
    page.write_text(filled(page.read_text(), rows))


def filled(text: str, rows: Sequence[Row]) -> str:
    """The page with these results. ValueError if it lacks a place."""
    text = placed(text, "circumstances", f"\n{_circumstances(rows)}\n")
    for group, place in GROUPS.items():
        table = "\n".join(_table(row for row in rows if row.group == group))
        text = placed(text, place, f"\n{table}\n")
    return text


def _circumstances(rows: Sequence[Row]) -> str:
    machines = sorted({row.machine for row in rows})
    commits = sorted({row.commit for row in rows})
    return f"Measured on {'; '.join(machines)}; picker at commit {', '.join(commits)}. The machine is shared."


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| what | who | median (least-most of the rounds) | target | |", "| --- | --- | --- | --- | --- |"]
    said = ""
    for row in rows:
        lines.append(
            f"| {row.what if row.what != said else ''} | {row.who} | {figure(row)} | {goal(row)} | {row.note} |"
        )
        said = row.what
    return lines
