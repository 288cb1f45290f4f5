"""Runs Python plugins for the core: in batch, isolated and timed; a plugin that keeps failing is left alone a while."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picker._core.codec import header_pairs
from picker.policy.api import Candidate, Filter, Picker, Plugin, Request, Scorer

__all__ = ["BUDGET_S", "PluginHost", "PluginRecord"]

BUDGET_S = 0.01
"""Longest time a plugin may take for one request, in seconds; what it answers later is not used."""

REST_AFTER = 5  # failures in a row
REST_S = 30.0

_LOG = logging.getLogger("picker.plugins")
_FIELDS = tuple(Candidate.__dataclass_fields__)


@dataclass(slots=True)
class PluginRecord:
    """A plugin at work: how often it ran, how long, how often it failed and why last."""

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
    rests_until: float = field(default=0.0, repr=False)


class PluginHost:
    """What `Engine.set_policy` calls at a Python step; `records` are keyed by step number."""

    def __init__(
        self,
        records: Mapping[int, PluginRecord],
        *,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.records = dict(records)
        self._budget_s = budget_s
        self._clock = clock

    def __call__(
        self, step: int, asked: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]
    ) -> list[float] | None:
        """What the core makes of the step, or None when the plugin is to be skipped for this request."""
        record = self.records[step]
        started = self._clock()
        if started < record.rests_until:
            record.skipped += 1
            return None
        try:
            slots = [endpoint["slot"] for endpoint in endpoints]
            answer = _ask(record.plugin, _request(asked), [_candidate(endpoint) for endpoint in endpoints], slots)
        except Exception as problem:  # a plugin may raise anything; it must not cost a request
            record.errors += 1
            return self._failed(record, f"{type(problem).__name__}: {problem}", started)
        took = self._clock() - started
        record.calls += 1
        record.seconds += took
        if took > self._budget_s:
            record.overruns += 1
            return self._failed(record, f"took {took * 1e3:.1f} ms of {self._budget_s * 1e3:.1f}", started)
        record.failures_in_row = 0
        return answer

    def _failed(self, record: PluginRecord, why: str, now: float) -> None:
        record.last_error = why
        record.failures_in_row += 1
        if record.failures_in_row == 1:
            _LOG.warning("plugin %s (%s) skipped for a request: %s", record.name, record.type, why)
        if record.failures_in_row >= REST_AFTER:
            record.failures_in_row = 0
            record.rests_until = now + REST_S
            _LOG.error("plugin %s failed %d times in a row, left out for %g s", record.name, REST_AFTER, REST_S)


def _request(asked: Mapping[str, Any]) -> Request:
    return Request(
        model=asked["model"].decode("utf-8", "replace"),
        prompt_tokens=asked["prompt_tokens"],
        headers={key.decode("latin-1"): value.decode("latin-1") for key, value in header_pairs(asked["headers"])},
    )


def _candidate(endpoint: Mapping[str, Any]) -> Candidate:
    return Candidate(**{name: endpoint[name] for name in _FIELDS})


def _ask(plugin: Plugin, request: Request, candidates: Sequence[Candidate], slots: Sequence[int]) -> list[float]:
    """The plugin's answer as the core takes it: slots to keep, scores, or the slot chosen.

    Raises what the plugin raises, and ValueError or TypeError for an answer that fits nothing.
    """
    if isinstance(plugin, Picker):
        chosen = plugin.pick(request, candidates)
        if not 0 <= chosen < len(candidates):
            raise ValueError(f"picked index {chosen} of {len(candidates)} candidates")
        return [slots[chosen]]
    if isinstance(plugin, Filter):
        keeps = list(plugin.keep(request, candidates))
        _check_length(keeps, candidates)
        return [slot for slot, keep in zip(slots, keeps, strict=True) if keep]
    if not isinstance(plugin, Scorer):
        raise TypeError(f"{type(plugin).__name__} is neither a Filter, a Scorer nor a Picker")
    scores = [float(score) for score in plugin.score(request, candidates)]
    _check_length(scores, candidates)
    if not all(map(math.isfinite, scores)):
        raise ValueError("a score is not finite")
    return scores


def _check_length(answer: Sequence[object], candidates: Sequence[Candidate]) -> None:
    if len(answer) != len(candidates):
        raise ValueError(f"{len(answer)} answers for {len(candidates)} candidates")
