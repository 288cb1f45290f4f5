"""The plugin API: scorers, filters and pickers in Python.

A package names its classes under the entry point group `picker.plugins`; a configuration then uses them by that name:

    [project.entry-points."picker.plugins"]
    quiet-hours-scorer = "my_package:QuietHoursScorer"

A plugin is called once per request with *all* candidates, on the thread that serves every request: it must not block.
What it raises, or what it answers after its time budget, is dropped and counted; the request goes on without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

__all__ = ["Candidate", "Filter", "Picker", "Plugin", "Request", "Scorer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request to be placed. `prompt_tokens` is an estimate; header names are lower-case."""

    model: str
    prompt_tokens: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An endpoint the request may go to, as picker sees it now.

    `waiting`, `running` (requests) and `kv_usage` (0-1) were scraped, negative if never; `requests`, `prefill_tokens`
    and `resident_tokens` are booked by picker itself; `cached_tokens` of this prompt it is thought to hold;
    `prefill_rate` in tokens per second; `total` is the weighted score so far.
    """

    target: str
    waiting: float
    running: float
    kv_usage: float
    requests: int
    prefill_tokens: int
    resident_tokens: int
    cached_tokens: int
    prefill_rate: float
    total: float


class Plugin:
    """What all plugins share. `parameters` is the struct their `parameters` in the configuration decode to."""

    role: ClassVar[str]
    parameters: ClassVar[type[msgspec.Struct] | None] = None

    def __init__(self, parameters: Any) -> None:
        """`parameters`: an instance of the struct, or the mapping as it stands in the configuration."""


class Scorer(Plugin):
    """Says how good each candidate is."""

    role: ClassVar[str] = "scorer"

    def score(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[float]:
        """One score in [0, 1] per candidate, in their order; values outside are clamped."""
        raise NotImplementedError


class Filter(Plugin):
    """Says which candidates may stay."""

    role: ClassVar[str] = "filter"

    def keep(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[bool]:
        """True for each candidate that stays, in their order."""
        raise NotImplementedError


class Picker(Plugin):
    """Chooses among what the filters left, with the scorers' totals."""

    role: ClassVar[str] = "picker"

    def pick(self, request: Request, candidates: Sequence[Candidate]) -> int:
        """The index of the chosen candidate."""
        raise NotImplementedError
