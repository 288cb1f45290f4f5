"""Runs Python plugins for the core: in batch, isolated and timed; one that keeps failing is left alone for a while."""

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picker._core.codec import header_pairs
from picker.policy.api import Candidate, Filter, Picker, Plugin, Request, Scorer

__all__ = ["BUDGET_S", "PICK_BUDGET_S", "REST_AFTER", "REST_S", "PluginHost", "PluginRecord"]

BUDGET_S = 0.01
"""Longest time a plugin may take for one request, in seconds; what it answers later is not used."""

PICK_BUDGET_S = 0.05
"""Longest time all plugins together may take for one request, in seconds, however often it is picked anew; what is due
after that is skipped."""

REST_AFTER = 5
"""Failures in a row after which a plugin rests; from then on every failure sends it back, until it succeeds."""

REST_S = 30.0
"""How long it rests. Failures before that are logged no oftener."""

_LOG = logging.getLogger("picker.plugins")


@dataclass(slots=True)
class PluginRecord:
    """A plugin at work: how often it was called, how long it took, how often it failed and why last."""

    plugin: Plugin
    type: str
    name: str
    calls: int = 0
    seconds: float = 0.0
    errors: int = 0
    overruns: int = 0
    skipped: int = 0
    last_error: str = ""
    failures_in_row: int = field(default=0, repr=False)
    rests_until: float = field(default=-math.inf, repr=False)
    quiet_until: float = field(default=-math.inf, repr=False)

    def view(self) -> dict[str, str | int | float]:
        """What people and metrics see. `errors` and `overruns` are among the `calls`, `skipped` (resting, or the
        request's time was up) is not."""
        return {
            "name": self.name,
            "type": self.type,
            "role": self.plugin.role,
            "calls": self.calls,
            "seconds": self.seconds,
            "errors": self.errors,
            "overruns": self.overruns,
            "skipped": self.skipped,
            "last_error": self.last_error,
        }


class PluginHost:
    """What `Engine.set_policy` calls at a Python step; `records` are keyed by step number.

    `clock` is any that does not go back, in seconds.
    """

    def __init__(
        self,
        records: Mapping[int, PluginRecord],
        *,
        budget_s: float = BUDGET_S,
        pick_budget_s: float = PICK_BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.records = dict(records)
        self._budget_s = budget_s
        self._pick_budget_s = pick_budget_s
        self._pick = -1  # the one under way: there is one at a time
        self._pick_ends = math.inf
        self._clock = clock

    def __call__(
        self, step: int, asked: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]
    ) -> list[float] | None:
        """What the core makes of the step, or None when the plugin is to be skipped for this request."""
        record, now = self.records[step], self._clock()
        if asked["pick"] != self._pick:
            self._pick, self._pick_ends = asked["pick"], now + self._pick_budget_s
        if now < record.rests_until or now >= self._pick_ends:
            record.skipped += 1
            return None
        request, candidates = _request(asked), tuple(map(_candidate, endpoints))
        numbers = self._timed(record, request, candidates)
        return None if numbers is None else _for_core(record.plugin, numbers, endpoints)

    def _timed(self, record: PluginRecord, request: Request, candidates: Sequence[Candidate]) -> list[float] | None:
        """The plugin's answer, one number per candidate; None if it failed."""
        problem: BaseException | None = None
        numbers: list[float] = []
        started = self._clock()
        try:
            numbers = _ask(record.plugin, request, candidates)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # SystemExit too: nothing in a plugin may cost a request
            problem = raised
        ended = self._clock()
        record.calls += 1
        record.seconds += ended - started
        if problem is not None:
            record.errors += 1
            self._failed(record, traceback.format_exception_only(problem)[-1].strip(), ended, problem)
        elif ended - started > self._budget_s:
            record.overruns += 1
            self._failed(record, f"took {(ended - started) * 1e3:.1f} ms of {self._budget_s * 1e3:.1f}", ended)
        else:
            record.failures_in_row = 0
            return numbers
        return None

    def _failed(self, record: PluginRecord, why: str, now: float, problem: BaseException | None = None) -> None:
        record.last_error = why
        record.failures_in_row += 1
        if record.failures_in_row >= REST_AFTER:
            record.rests_until = now + REST_S
            what = f"failed {record.failures_in_row} times in a row, left out for {REST_S:g} s"
            _LOG.error("plugin %s (%s) %s: %s", record.name, record.type, what, why)
        elif now >= record.quiet_until:
            record.quiet_until = now + REST_S
            _LOG.warning("plugin %s (%s) skipped for a request: %s", record.name, record.type, why, exc_info=problem)


def _request(asked: Mapping[str, Any]) -> Request:
    headers: dict[str, str] = {}
    for name, value in header_pairs(asked["headers"]):
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Request(
        model=asked["model"].decode("utf-8", "replace"), prompt_tokens=asked["prompt_tokens"], headers=headers
    )


def _candidate(endpoint: Mapping[str, Any]) -> Candidate:
    return Candidate(
        target=endpoint["target"],
        waiting=endpoint["waiting"],
        running=endpoint["running"],
        kv_usage=endpoint["kv_usage"],
        requests=endpoint["requests"],
        prefill_tokens=endpoint["prefill_tokens"],
        resident_tokens=endpoint["resident_tokens"],
        cached_tokens=endpoint["cached_tokens"],
        prefill_rate=endpoint["prefill_rate"],
        total=endpoint["total"],
    )


def _ask(plugin: Plugin, request: Request, candidates: Sequence[Candidate]) -> list[float]:
    """One number per candidate: its score; for a filter 1 to keep it; for a picker 1 for the chosen one.

    Raises what the plugin raises, and ValueError or TypeError for an answer that fits nothing.
    """
    if isinstance(plugin, Picker):
        return _chosen(plugin.pick(request, candidates), len(candidates))
    if isinstance(plugin, Filter):
        return _kept(list(plugin.keep(request, candidates)), len(candidates))
    if isinstance(plugin, Scorer):
        return _scored(list(plugin.score(request, candidates)), len(candidates))
    raise TypeError(f"{type(plugin).__name__} is neither a Scorer, a Filter nor a Picker")


def _chosen(index: int, count: int) -> list[float]:
    if isinstance(index, bool) or not 0 <= index < count:
        raise ValueError(f"picked index {index!r} of {count} candidates")
    numbers = [0.0] * count
    numbers[index] = 1.0
    return numbers


def _kept(answers: list[bool], count: int) -> list[float]:
    _check_length(answers, count)
    if not all(keep in (True, False) for keep in answers):
        raise ValueError("an answer is neither True nor False")
    return [float(keep) for keep in answers]


def _scored(scores: list[float], count: int) -> list[float]:
    _check_length(scores, count)
    if not all(map(math.isfinite, scores)):
        raise ValueError("a score is not finite")
    return list(map(float, scores))


def _check_length(answers: Sequence[object], count: int) -> None:
    if len(answers) != count:
        raise ValueError(f"{len(answers)} answers for {count} candidates")


def _for_core(plugin: Plugin, numbers: list[float], endpoints: Sequence[Mapping[str, Any]]) -> list[float]:
    """As `score.frame_answer` takes it: a scorer's numbers, for the others the slots whose number is not 0."""
    if isinstance(plugin, Scorer):
        return numbers
    return [endpoint["slot"] for endpoint, number in zip(endpoints, numbers, strict=True) if number]
