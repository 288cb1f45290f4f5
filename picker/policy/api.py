"""The plugin API: scorers, filters and pickers in Python (`docs/plugins.md` shows how one is written and installed).

A package names its classes under the entry point group `picker.plugins`; a configuration then uses them by that name.
A plugin is called with *all* candidates of a request at once, on the thread that serves every request: it must not
block. What it raises, or answers after its time budget, is dropped and counted; the request goes on without it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

__all__ = ["Candidate", "Filter", "Picker", "Plugin", "Request", "Scorer"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The request to be placed.

    `model` is empty and `prompt_tokens` (an estimate) 0 where no prompt was read. Header names are lower-case,
    `:path` and its like among them; a header sent more than once has its values joined by commas.
    """

    model: str
    prompt_tokens: int
    headers: Mapping[str, str]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint the request may go to, as picker sees it now.

    `target` is its `ip:port`. `waiting`, `running` (requests) and `kv_usage` (0-1) were scraped, negative if never;
    `requests`, `prefill_tokens` and `resident_tokens` are booked by picker itself; `cached_tokens` of this prompt it is
    thought to hold; `prefill_rate` in tokens per second; `total` is the weighted score so far.
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
    """What all plugins share; derive from `Scorer`, `Filter` or `Picker`, not from this.

    `parameters` is the struct that their `parameters` in a configuration decode to; None: any mapping.
    """

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
    """Says which candidates may stay. If none may, the request is answered 503."""

    role: ClassVar[str] = "filter"

    def keep(self, request: Request, candidates: Sequence[Candidate]) -> Sequence[bool]:
        """True for each candidate that stays, False for the others, in their order."""
        raise NotImplementedError


class Picker(Plugin):
    """Chooses among what the filters left, with the scorers' totals."""

    role: ClassVar[str] = "picker"

    def pick(self, request: Request, candidates: Sequence[Candidate]) -> int:
        """The index of the chosen candidate."""
        raise NotImplementedError
