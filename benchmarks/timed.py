"""One of the processes of `benchmarks.pair`: runs cases for as long as it is told, and says what that took.

`python -m benchmarks.timed TREE CPU`; CPU of -1 pins it nowhere. Commands come in lines on stdin, each answered by a
line: `case NAME` (`ok`, or `failed` and why), `run TIMES` (nanoseconds).
"""

import gc
import os
import sys
import time
from pathlib import Path

import picker
from benchmarks.cases import read
from benchmarks.cases.case import Action, Case


def main(tree: str, cpu: str) -> None:
    if Path(picker.__file__).resolve().parents[1] != Path(tree).resolve():
        raise SystemExit(f"picker does not come from {tree}")
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    cases = {case.name: case for case in read()[0]}
    action: Action = lambda: None  # noqa: E731
    gc.disable()
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(" ")
        if command == "case":
            action, told = _made(cases.get(argument))
            gc.collect()
        else:
            told = str(_run(action, int(argument)))
        print(told, flush=True)


def _made(case: Case | None) -> tuple[Action, str]:
    try:
        if case is None:
            raise LookupError("its file could not be read")
        action = case.make()
        action()
        return action, "ok"
    except Exception as error:
        return lambda: None, f"failed {type(error).__name__}: {error}".replace("\n", " ")


def _run(action: Action, times: int) -> int:
    """The first calls find the caches full of another process's, and are not what is asked."""
    for _ in range(times // 4 + 1):
        action()
    began = time.perf_counter_ns()
    for _ in range(times):
        action()
    return time.perf_counter_ns() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
