"""What callgrind runs: every case once between two marks, after one call that lets buffers grow to their size.

`python -m benchmarks.counted TREE MARKS DONE PATTERN...`, by `benchmarks.callgrind` alone. TREE: where the core is to
come from; DONE: a JSON file that says of each mark which case it was, and why others were not measured.
"""

import ctypes
import gc
import json
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import picker
from benchmarks.cases import read
from benchmarks.cases.case import Case
from picker._core import alloc


def main(tree: str, library: str, done: str, *patterns: str) -> None:
    found = Path(picker.__file__).resolve().parents[1]
    if found != Path(tree).resolve():
        raise SystemExit(f"picker comes from {found}, not from {tree}")
    if alloc.is_debug_build():
        raise SystemExit(f"the core in {tree} is a debug build: `make build`")
    marks = ctypes.PyDLL(library)
    marks.end.argtypes = [ctypes.c_char_p]
    if not marks.is_counted():
        raise SystemExit("this is to be run by callgrind: `python -m benchmarks.ir`")
    cases, _, failed = read()
    told: dict[str, dict[str, str]] = {"marks": {}, "failed": failed}
    for number, case in enumerate(cases):
        if case.is_counted and any(fnmatchcase(case.name, pattern) for pattern in patterns):
            began = time.monotonic()
            try:
                _count(case, marks, str(number))
                told["marks"][str(number)] = case.name
            except Exception as error:
                told["failed"][case.name] = f"{type(error).__name__}: {error}"
            print(f"{time.monotonic() - began:6.2f} s  {case.name}", flush=True)
    Path(done).write_text(json.dumps(told))


def _count(case: Case, marks: ctypes.PyDLL, mark: str) -> None:
    """One call under the counter. What an older core cannot do fails in the call before."""
    action = case.make()
    action()
    gc.collect()
    gc.disable()
    name = mark.encode()
    marks.begin()
    action()
    marks.end(name)
    gc.enable()


if __name__ == "__main__":
    main(*sys.argv[1:])
