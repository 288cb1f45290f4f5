"""The tripwire: instructions of the core, case by case, against those of the commit that a change is based on.

`make bench-gate [BASE=rev]`, or `python -m benchmarks.ir [--base REV] [PATTERN...]`. Exit status 1 for a case that
takes over 2 % more than at the base without a commit that says why (`Perf-Ir: case +7 % because ...`), and for one that
grows faster with its size than stated; 2 if nothing could be measured. docs/benchmarks.md says how to read it.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import bases
from benchmarks.callgrind import WORK, Count, CountingFailed, Counts, Run, require_valgrind
from benchmarks.cases import read
from benchmarks.cases.case import Growth
from benchmarks.results import ROOT, commit

MOST = 0.02
"""By which share a case may take more instructions than at the base."""
TOLD = 0.001
"""Changes from which on they are shown."""
HISTORY = ROOT / "build" / "bench" / "ir"
FACES = {"alloc"}
"""Modules that run in tests alone: their kernel is compiled into the others."""
_TRAILER = re.compile(r"^Perf-Ir:(.*)$", re.M)
_STATED = re.compile(r"\s*(.+?)\s+\+(\d+(?:\.\d+)?) ?% because\s+\S")


@dataclass(frozen=True)
class Allowance:
    """A commit says that cases may take so much more: a share, 0.07 for +7 %."""

    pattern: str
    share: float


@dataclass(frozen=True)
class Verdict:
    """Of one case. `change`: the share by which it takes more than at the base, None for a case that is new;
    `allowed`: the share it may."""

    name: str
    head: Count
    base: Count | None
    allowed: float

    @property
    def change(self) -> float | None:
        if self.base is None:
            return None
        return self.head.ir / self.base.ir - 1 if self.base.ir else float(self.head.ir > 0)

    @property
    def is_slower(self) -> bool:
        return self.base is not None and self.head.ir > self.base.ir * (1 + self.allowed)


@dataclass(frozen=True)
class Grown:
    """How a case grew: `times` as many instructions for eight times the size, where `growth.most` may be."""

    growth: Growth
    times: float

    @property
    def is_worse(self) -> bool:
        return self.times > self.growth.most


def allowances(messages: Iterable[str]) -> tuple[list[Allowance], list[str]]:
    """What commits say on purpose, and the lines that say it in another form, which count for nothing."""
    found, odd = [], []
    for line in (line for message in messages for line in _TRAILER.findall(message)):
        if stated := _STATED.match(line):
            found.append(Allowance(stated[1], float(stated[2]) / 100))
        else:
            odd.append(f"Perf-Ir:{line}")
    return found, odd


def allowed(name: str, stated: Iterable[Allowance]) -> float:
    """The share by which a case may take more: 2 %, or what all that is said of it comes to."""
    times = 1.0
    for allowance in stated:
        if name == allowance.pattern or fnmatchcase(name, allowance.pattern):
            times *= 1 + allowance.share
    return max(times - 1, MOST)


def judged(head: Counts, base: Counts | None, stated: Sequence[Allowance]) -> list[Verdict]:
    """A verdict for each case of the head."""
    known: Mapping[str, Count] = base.cases if base else {}
    return [Verdict(name, count, known.get(name), allowed(name, stated)) for name, count in head.cases.items()]


def grown(growths: Iterable[Growth], head: Counts) -> list[Grown]:
    """How those grew of which both sizes were measured."""
    found = []
    for growth in growths:
        small, large = (head.cases.get(case.name) for case in growth.cases)
        if small and large and small.ir:
            found.append(Grown(growth, large.ir / small.ir))
    return found


def unreached(head: Counts, root: Path = ROOT) -> list[str]:
    """Modules of the core that no case runs."""
    reached = {module for count in head.cases.values() for module, _ in count.functions}
    return sorted({source.stem for source in (root / "_core").glob("*.pyx")} - reached - FACES)


def moved(verdict: Verdict, most: int = 3) -> list[str]:
    """The functions that account for most of a change, for people."""
    difference = Counter(verdict.head.functions)
    difference.subtract(verdict.base.functions if verdict.base else {})
    ranked = sorted(difference.items(), key=lambda item: -item[1])[:most]
    return [f"{by:+,} in {_plain(function)} ({module})" for (module, function), by in ranked if by > 0]


def _plain(function: str) -> str:
    """A function's name without what Cython puts before it."""
    return re.sub(r"^__pyx_\w*?_core_\d+(?=[a-z])", "", function.partition(".")[0].partition("'")[0])


# --- measuring ---


def measure(
    base: Path | None, head: Path, patterns: Sequence[str], *, is_thorough: bool
) -> tuple[Counts, Counts | None]:
    """Counts of head and base, side by side. CountingFailed."""
    runs = [Run(head, patterns, WORK / "head", is_thorough=is_thorough)]
    try:
        if base is not None:
            runs.append(Run(base, patterns, WORK / "base", is_thorough=is_thorough))
        found = [run.counts() for run in runs]
    finally:
        for run in runs:
            run.stop()
    return found[0], found[1] if base is not None else None


def save(head: Counts) -> None:
    """Keeps the counts of this commit, for `make bench-report`."""
    HISTORY.mkdir(parents=True, exist_ok=True)
    told = {"commit": commit(), "at": time.time(), "cases": {name: count.ir for name, count in head.cases.items()}}
    (HISTORY / f"{commit()}.json").write_text(json.dumps(told, indent=1) + "\n")


# --- shown ---


def show(console: Console, verdicts: Sequence[Verdict], *, shows_all: bool, is_thorough: bool) -> None:
    """A line for each case that changed, the worst first, or for all."""
    ranked = sorted(verdicts, key=lambda verdict: -(verdict.change or 0.0))
    shown = [one for one in ranked if shows_all or one.change is None or abs(one.change) >= TOLD or one.is_slower]
    table = Table(title="instructions in the core", title_justify="left")
    table.add_column("case", overflow="fold")
    for name in (
        "base",
        "head",
        "change",
        "may",
        "elsewhere",
        *(("D1 misses", "branch misses") if is_thorough else ()),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for verdict in shown:
        table.add_row(*_cells(verdict, is_thorough))
    if shown:
        console.print(table)
    quiet = len(verdicts) - len(shown)
    if quiet:
        console.print(f"{quiet} {'other ' if shown else ''}cases take what they took, to {TOLD:.1%} (--all shows them)")


def _cells(verdict: Verdict, is_thorough: bool) -> list[str]:
    head, base = verdict.head, verdict.base
    word = "[bold red]SLOWER[/]" if verdict.is_slower else ""
    if verdict.change is None:
        word = "new"
    elif verdict.change > MOST and not verdict.is_slower:
        word = "[yellow]said why[/]"
    cells = [
        verdict.name,
        f"{base.ir:,}" if base else "-",
        f"{head.ir:,}",
        f"{verdict.change:+.2%}" if verdict.change is not None else "-",
        f"{verdict.allowed:+.1%}",
        _two(base.elsewhere if base else None, head.elsewhere),
    ]
    if is_thorough:
        for events in (("D1mr", "D1mw"), ("Bcm",)):
            one, other = (sum(count.events[name] for name in events) if count else None for count in (base, head))
            cells.append(_two(one, other or 0))
    return [*cells, word]


def _two(base: int | None, head: int) -> str:
    """Before and now, or now alone where nothing changed."""
    return f"{head:,}" if base is None or base == head else f"{base:,} → {head:,}"


def show_growth(console: Console, found: Sequence[Grown], *, shows_all: bool) -> None:
    """How cases grow with eight times the size: all of them, or those that grow too fast."""
    shown = [one for one in found if shows_all or one.is_worse]
    table = Table(title="eight times the size", title_justify="left")
    for name in ("case", "order", "instructions", "may be", ""):
        table.add_column(name, justify="left" if name in ("case", "") else "right")
    for one in shown:
        word = "[bold red]GROWS TOO FAST[/]" if one.is_worse else ""
        cells = [one.growth.name, f"O({one.growth.order})", f"× {one.times:.2f}", f"× {one.growth.most:.2f}", word]
        table.add_row(*cells)
    if shown:
        console.print(table)
    else:
        console.print(f"{len(found)} cases grow with their size as stated (--all shows them)")


NEXT = """\
What to do: look at the functions above. If it is worth what it costs, say so in a commit of this change:
    Perf-Ir: <case or pattern> +N %% because <why>
`make bench-pair %sCASES='<pattern>'` says what it is in time; docs/benchmarks.md, what these figures can tell."""


def report(
    console: Console, verdicts: Sequence[Verdict], growths: Sequence[Grown], missing: Sequence[str], base: str
) -> int:
    """Says what is wrong, and what to do; the exit status."""
    slower = [verdict for verdict in verdicts if verdict.is_slower]
    for verdict in slower:
        console.print(f"[bold red]{verdict.name}[/]: {verdict.change:+.2%}, where {verdict.allowed:+.1%} may be")
        for line in moved(verdict):
            console.print(f"    {line}")
    for one in growths:
        if one.is_worse:
            console.print(
                f"[bold red]{one.growth.name}[/]: × {one.times:.2f}; O({one.growth.order}) is × {one.growth.most:.2f}"
            )
    for module in missing:
        console.print(f"[bold red]no case runs {module}[/]: add one to benchmarks/cases")
    if slower:
        console.print(NEXT % (f"BASE={base[:12]} " if base else ""), highlight=False)
    return 1 if slower or missing or any(one.is_worse for one in growths) else 0


# --- the command ---


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ir", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "patterns", nargs="*", default=["*"], metavar="PATTERN", help="cases, with * and ?; all if none"
    )
    parser.add_argument("--base", default="", metavar="REV", help="what to compare with; see benchmarks/bases.py")
    parser.add_argument("--base-tree", type=Path, metavar="DIR", help="a core that is built already, in its place")
    parser.add_argument("--head-tree", type=Path, default=ROOT, metavar="DIR", help="another core than that in place")
    parser.add_argument("--all", action="store_true", help="show what did not change, too")
    parser.add_argument("--caches", action="store_true", help="misses of caches and branches beside; slower")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    asked = parsed(arguments)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=170, highlight=False)
    try:
        require_valgrind()
        return gate(asked, console)
    except CountingFailed as error:
        console.print(f"[bold red]not measured:[/] {error}")
        return 2


def gate(asked: argparse.Namespace, console: Console) -> int:
    """Measures, shows, judges; the exit status. CountingFailed."""
    started = time.monotonic()
    require_current(asked.head_tree)
    base, tree = _base(asked, console)
    built_s = time.monotonic() - started
    head, before = measure(tree, asked.head_tree.resolve(), asked.patterns, is_thorough=asked.caches)
    if head.failed:
        raise CountingFailed("; ".join(f"{name}: {why}" for name, why in head.failed.items()))
    if not head.cases:
        raise CountingFailed(f"no case is called {' or '.join(asked.patterns)}")
    stated, odd = allowances(bases.messages(base) if base else [])
    verdicts, growths = judged(head, before, stated), grown(read()[1], head)
    show(console, verdicts, shows_all=asked.all, is_thorough=asked.caches)
    show_growth(console, growths, shows_all=asked.all)
    for line in odd:
        console.print(f"[yellow]not understood, and so without effect:[/] {line}")
    is_whole = asked.patterns == ["*"]
    if is_whole and asked.head_tree == ROOT:
        save(head)
    status = report(console, verdicts, growths, unreached(head) if is_whole else [], base)
    whole_s = time.monotonic() - started
    console.print(f"{len(verdicts)} cases; {whole_s:.0f} s, of them {built_s:.0f} s to build the base")
    console.print("[bold red]FAILED[/]" if status else "[green]passed[/]")
    return status


def require_current(tree: Path) -> None:
    """CountingFailed if a source of the core is newer than what was compiled of it."""
    for source in sorted((tree / "_core").glob("*.pyx")):
        made = next((tree / "_core").glob(f"{source.stem}.*.so"), None)
        if made is None or made.stat().st_mtime < source.stat().st_mtime:
            raise CountingFailed(f"{source.name} is newer than what was compiled of it: `make build`")


def _base(asked: argparse.Namespace, console: Console) -> tuple[str, Path | None]:
    """The commit to compare with ("" if there is none, or it is not known) and its core."""
    if asked.base_tree:
        return "", asked.base_tree.resolve()
    base = bases.choose(asked.base)
    if base is None:
        console.print("[yellow]there is no earlier commit here[/] (a shallow clone?): only growth is judged")
        return "", None
    console.print(f"base: {base.commit[:12]} ({base.why})")
    return base.commit, bases.built(base.commit)


if __name__ == "__main__":
    sys.exit(main())
