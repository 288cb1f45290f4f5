"""Counts instructions of cases under callgrind: those of the core's own code, which are the same in every run.

Only self cost inside `_core/*.so` counts. What Python, libc and other libraries do on the core's behalf varies with
paths, hash seeds and the allocator's mood; it is kept beside, as `elsewhere`, for people.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import ROOT

WORK = ROOT / "build" / "gate"
EVENTS = ("Ir", "D1mr", "D1mw", "Bcm")
"""Instructions; first-level data misses of reads and of writes; conditional branches mispredicted."""
_NAME = re.compile(r"(ob|cob|fn|cfn|fl|fi|fe|cfi|cfl)=\((\d+)\)(?: (.*))?$")
_KINDS = {"ob": "ob", "cob": "ob", "fn": "fn", "cfn": "fn"}
_CORE = re.compile(r"/_core/(\w+)\.[^/]*so$")


class CountingFailed(Exception):
    """Nothing was counted; the message says why, and what to do."""


@dataclass
class Count:
    """One case's cost. `functions`: instructions of each (module, function) of the core; `events`: sums over the core
    of what else was asked for; `elsewhere`: instructions outside of the core and of Python."""

    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0

    @property
    def ir(self) -> int:
        return self.events["Ir"]


@dataclass(frozen=True)
class Counts:
    """Of one core: counts by case, and why others were not measured."""

    cases: dict[str, Count]
    failed: dict[str, str]


def read_dump(lines: Iterable[str]) -> tuple[str, Count]:
    """The mark that caused a dump, and what it counted. Only the `Ir` and the other EVENTS are read."""
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}, "fl": {}}
    mark, where, function = "", "", ""
    columns: list[str] = []
    count, is_call = Count(), False
    for line in lines:
        if is_call:  # what the callee cost, which is counted where it was spent
            is_call = False
        elif named := _NAME.match(line.rstrip("\n")):
            name = _resolved(names, *named.groups())
            if named[1] == "ob":
                where = name
            elif named[1] == "fn":
                function = name
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            _add(count, where, function, dict(zip(columns, map(int, line.split()[1:]), strict=False)))
        elif line.startswith("events: "):
            columns = line.split()[1:]
        elif line.startswith("desc: Trigger: Client Request: "):
            mark = line.split(": ", 3)[3].strip()
    return mark, count


def _resolved(names: dict[str, dict[str, str]], kind: str, number: str, name: str | None) -> str:
    """A name that is told once, and by its number from then on."""
    known = names[_KINDS.get(kind, "fl")]
    if name is not None:
        known[number] = name
    return known[number]


def _add(count: Count, where: str, function: str, cost: dict[str, int]) -> None:
    if core := _CORE.search(where):
        count.functions[core[1], function] += cost.get("Ir", 0)
        for event in EVENTS:
            count.events[event] += cost.get(event, 0)
    elif "python" not in where:
        count.elsewhere += cost.get("Ir", 0)


def require_valgrind() -> None:
    """CountingFailed where there is no valgrind, or no compiler that finds its headers."""
    script = ROOT / "tools" / "valgrind.sh"
    if subprocess.run(["sh", str(script)], check=False).returncode:
        raise CountingFailed("nothing can be counted without valgrind")


def marks_library() -> Path:
    """The marks, compiled."""
    source, made = ROOT / "benchmarks" / "marks.c", WORK / "marks.so"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        WORK.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc").split()[0]
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


class Run:
    """Callgrind at work on the cases that `patterns` name, with the core that lies in `tree`."""

    def __init__(self, tree: Path, patterns: Sequence[str], out: Path, *, is_thorough: bool = False) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        self._out = out
        more = ["--cache-sim=yes", "--branch-sim=yes"] if is_thorough else []
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out / 'dump'}", *more]
        worker = ["-m", "benchmarks.counted", str(tree), str(marks_library()), str(out / "done.json"), *patterns]
        path = os.pathsep.join([str(tree), str(ROOT)])
        self._log = (out / "log").open("w")
        self._process = subprocess.Popen(
            [*command, sys.executable, *worker],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def counts(self) -> Counts:
        """What it counted, once it has ended. CountingFailed if it could not."""
        status = self._process.wait()
        self._log.close()
        done = self._out / "done.json"
        if status or not done.exists():
            tail = "".join((self._out / "log").read_text(errors="replace").splitlines(keepends=True)[-15:])
            raise CountingFailed(f"callgrind ended with {status}:\n{tail}")
        told = json.loads(done.read_text())
        cases = {}
        for dump in self._out.glob("dump.*"):
            with dump.open() as lines:
                mark, count = read_dump(lines)
            if mark in told["marks"]:
                cases[told["marks"][mark]] = count
        if len(cases) != len(told["marks"]):
            raise CountingFailed(f"{len(told['marks'])} cases ran, but callgrind left {len(cases)} dumps")
        return Counts(cases, told["failed"])

    def stop(self) -> None:
        """Ends it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
