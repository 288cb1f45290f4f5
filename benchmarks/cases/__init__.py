"""All cases, by the module they are about. A module that is new has a file of its own: see `read`."""

import importlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.cases.case import Case, Growth

FILES = sorted(path.stem for path in Path(__file__).parent.glob("of_*.py"))


def read(files: Iterable[str] = FILES) -> tuple[list[Case], list[Growth], dict[str, str]]:
    """Cases (those of growths among them), growths, and which files could not be read, with why.

    An older core may lack what the cases of a file import: it is then measured without them.
    """
    cases: list[Case] = []
    growths: list[Growth] = []
    failed: dict[str, str] = {}
    for name in files:
        try:
            module = importlib.import_module(f"benchmarks.cases.{name}")
        except ImportError as error:
            failed[name] = str(error)
            continue
        cases += module.CASES
        growths += getattr(module, "GROWTHS", [])
    cases += [case for growth in growths for case in growth.cases]
    names = [case.name for case in cases]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two cases are called {sorted(doubled)[0]!r}")
    return cases, growths, failed
