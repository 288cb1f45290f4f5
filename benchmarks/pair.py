"""Is it slower? Two builds of the core in turns, beside the base against itself: what of the difference is noise.

`make bench-pair [BASE=rev] [CASES='radix*']`, or `python -m benchmarks.pair [--base REV] [PATTERN...]`. Three processes
on one processor - head, base, and the base once more - run slices of 200 µs in an order that changes each round; of
each the least counts. So one gets head / base (A/B) and base / base (A/A), and does so with fresh processes again.
Exit status 1 where A/B is above 1.10 and beyond twice the spread of A/A; where that spread is above 5 %, no verdict.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import bases
from benchmarks.callgrind import CountingFailed
from benchmarks.cases import read
from benchmarks.cases.case import Case
from benchmarks.results import ROOT

SLICE_NS = 200_000
ROUNDS = 60
FRESH = 5
"""Pairs of fresh processes: layout of memory is drawn anew in each."""
ORDERS = ((0, 1, 2), (0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0), (1, 0, 2))
"""All there are, in a row in which nobody comes twice running: who does finds the processor's caches warm."""
BEYOND, NOISY = 1.10, 0.05


@dataclass
class Ratios:
    """Of one case: head over base, and base over base, one of each for every set of fresh processes."""

    name: str
    ab: list[float] = field(default_factory=list)
    aa: list[float] = field(default_factory=list)
    base_ns: list[float] = field(default_factory=list)
    """Least time of a call, of the base."""

    @property
    def spread(self) -> float:
        """Of A/A: what the same code differs by, from 1 too."""
        return max(*self.aa, 1.0) / min(*self.aa, 1.0) - 1

    @property
    def verdict(self) -> str:
        """`slower`, `faster`, `same`, or `no verdict`."""
        if self.spread > NOISY:
            return "no verdict"
        ratio = statistics.median(self.ab)
        if ratio > BEYOND and ratio - 1 > 2 * self.spread:
            return "slower"
        return "faster" if 1 / ratio > BEYOND and 1 / ratio - 1 > 2 * self.spread else "same"


class Runner:
    """A process that runs cases with the core of `tree`. `ask` raises CountingFailed if it has ended."""

    def __init__(self, tree: Path, cpu: int) -> None:
        path = os.pathsep.join([str(tree), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.timed", str(tree), str(cpu)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise CountingFailed(f"a process that was asked to {line!r} has ended: see above")
        return answer.rstrip("\n")

    def run(self, times: int) -> int:
        """Nanoseconds that so many calls take."""
        return int(self.ask(f"run {times}"))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def one_set(head: Path, base: Path, known: dict[str, Ratios], cpu: int) -> dict[str, str]:
    """All cases once, by fresh processes; adds to their ratios. Why others could not be run."""
    failed: dict[str, str] = {}
    runners = [Runner(tree, cpu) for tree in (head, base, base)]
    try:
        for name, ratios in known.items():
            answers = [runner.ask(f"case {name}") for runner in runners]
            if problems := [answer for answer in answers if answer != "ok"]:
                failed[name] = problems[0]
                continue
            times = calls(runners[1])
            one, two, three = in_turns(runners, times)
            ratios.ab.append(one / two)
            ratios.aa.append(three / two)
            ratios.base_ns.append(two / times)
    finally:
        for runner in runners:
            runner.stop()
    return failed


def calls(runner: Runner) -> int:
    """How many calls take a slice, or one."""
    times = 1
    while (took := runner.run(times)) < SLICE_NS // 4:
        times *= 2
    return max(1, times * SLICE_NS // took)


def in_turns(runners: Sequence[Runner], times: int, rounds: int = ROUNDS) -> list[int]:
    """The least time of a slice of each, in nanoseconds."""
    best = [sys.maxsize] * len(runners)
    for order in itertools.islice(itertools.cycle(ORDERS), rounds):
        for place in order:
            best[place] = min(best[place], runners[place].run(times))
    return best


def show(console: Console, found: Iterable[Ratios], failed: dict[str, str]) -> int:
    """The table; the exit status."""
    table = Table(title="head : base, in time", title_justify="left", caption_justify="left")
    table.add_column("case", overflow="fold")
    for name in ("base", "A/B", "least - most", "A/A", "its spread", "verdict"):
        table.add_column(name, justify="right", no_wrap=True)
    status = 0
    for ratios in found:
        if ratios.name in failed:
            continue
        status |= ratios.verdict == "slower"
        style = {"slower": "bold red", "faster": "green", "no verdict": "yellow"}.get(ratios.verdict, "")
        table.add_row(
            ratios.name,
            f"{min(ratios.base_ns) / 1e3:,.3f} us",
            f"{statistics.median(ratios.ab):.3f}",
            f"{min(ratios.ab):.3f} - {max(ratios.ab):.3f}",
            f"{statistics.median(ratios.aa):.3f}",
            f"{ratios.spread:.1%}",
            f"[{style}]{ratios.verdict}[/]" if style else ratios.verdict,
        )
    console.print(table)
    for name, why in failed.items():
        console.print(f"[yellow]{name}: not compared:[/] {why}", highlight=False)
    return status


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases that patterns name; CountingFailed if there is none."""
    found = [case for case in read()[0] if any(fnmatchcase(case.name, pattern) for pattern in patterns)]
    if not found:
        raise CountingFailed(f"no case is called {' or '.join(patterns)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if something is slower, 2 if nothing could be compared."""
    parser = argparse.ArgumentParser(prog="benchmarks.pair", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "patterns", nargs="*", default=["*"], metavar="PATTERN", help="cases, with * and ?; all if none"
    )
    parser.add_argument("--base", default="", metavar="REV", help="what to compare with; see benchmarks/bases.py")
    parser.add_argument("--base-tree", type=Path, metavar="DIR", help="a core that is built already, in its place")
    parser.add_argument("--fresh", type=int, default=FRESH, metavar="N", help="sets of fresh processes (%(default)s)")
    asked = parser.parse_args(arguments)
    if asked.fresh < 1:
        parser.error("--fresh is to be 1 or more")
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=170, highlight=False)
    try:
        known = {case.name: Ratios(case.name) for case in chosen(asked.patterns)}
        tree = asked.base_tree.resolve() if asked.base_tree else _built(asked.base, console)
        failed: dict[str, str] = {}
        for _ in range(asked.fresh):
            failed |= one_set(ROOT, tree, known, cpu())
    except CountingFailed as error:
        console.print(f"[bold red]not compared:[/] {error}")
        return 2
    status = show(console, known.values(), failed)
    return 2 if len(failed) == len(known) else status


def cpu() -> int:
    """The processor that all run on, one at a time; -1 where there is no other for the rest."""
    mine = os.sched_getaffinity(0)
    return max(mine) if len(mine) > 1 else -1


def _built(asked: str, console: Console) -> Path:
    base = bases.choose(asked)
    if base is None:
        raise CountingFailed("there is no earlier commit here to compare with")
    console.print(f"base: {base.commit[:12]} ({base.why})")
    return bases.built(base.commit)


if __name__ == "__main__":
    sys.exit(main())
