"""Which row groups there are. A group is a module of this package with `rows(options) -> list[Row]`.

To add one: write the module (the first line of its docstring is what `--list` shows) and name it here.
"""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType

from benchmarks.load.options import Options
from benchmarks.load.row import Row

ORDER = (
    "direct",
    "chunks",
    "bodies",
    "gateway",
    "held",
    "queued",
    "resets",
    "deaf",
    "term",
    "scraping",
    "quiet",
    "watching",
    "soak",
)
ON_REQUEST = frozenset({"soak"})
"""Run only when asked for by name."""


def _module(name: str) -> str:
    return f"benchmarks.load.{name}"


def names() -> tuple[str, ...]:
    """The groups that are there, in the order they run."""
    there = (name for name in ORDER if importlib.util.find_spec(_module(name)) is not None)
    return tuple(name for name in there if hasattr(_load(name), "rows"))


def _load(name: str) -> ModuleType:
    return importlib.import_module(_module(name))


def about(name: str) -> str:
    """What the group measures, in a line."""
    return (_load(name).__doc__ or "").strip().splitlines()[0]


def group(name: str) -> Callable[[Options], list[Row]]:
    """The function that measures. KeyError for a name that is none."""
    if name not in names():
        raise KeyError(name)
    rows: Callable[[Options], list[Row]] = _load(name).rows
    return rows
