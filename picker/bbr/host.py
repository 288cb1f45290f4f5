"""Runs plugins for the core: timed and isolated; one that fails is left out, or stops the request if it must not be."""

import bisect
import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from picker._core.view import View
from picker.bbr.plugins import Message, RequestPlugin, ResponsePlugin, error_body

__all__ = ["BUDGET_S", "Durations", "PluginHost", "Record"]

BUDGET_S = 0.01
"""Longest time a plugin may take for one message, in seconds, unless it is given another."""

REST_AFTER = 5
"""Failures in a row after which a plugin that may be left out rests; until it succeeds, every failure sends it back."""

REST_S = 30.0
"""How long it rests. Failures before that are logged no oftener."""

_BOUNDS = (0.00001, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

_LOG = logging.getLogger("picker.bbr")


class Durations:
    """A histogram of times in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """`count` times, `seconds` each."""
        self._counts[bisect.bisect_left(_BOUNDS, seconds)] += count
        self.total += seconds * count

    @property
    def count(self) -> int:
        """Times observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[float, int]]:
        """(bound, times not above it), the last bound infinity."""
        seen, found = 0, []
        for bound, count in zip((*_BOUNDS, math.inf), self._counts, strict=True):
            seen += count
            found.append((bound, seen))
        return found


@dataclass(slots=True)
class Record:
    """A step at work: a plugin, or (None) one that is built into the core. `is_closed`: its failure is the request's.

    `errors` and `overruns` are of calls that were made, `skipped` of those left out because it rests.
    """

    plugin: object | None
    type: str
    name: str
    is_closed: bool = False
    budget_s: float = BUDGET_S
    errors: int = 0
    overruns: int = 0
    skipped: int = 0
    last_error: str = ""
    durations: Durations = field(default_factory=Durations)
    _failures_in_row: int = field(default=0, repr=False)
    _rests_until: float = field(default=-math.inf, repr=False)
    _quiet_until: float = field(default=-math.inf, repr=False)

    def is_resting(self, now: float) -> bool:
        """Whether it is left alone; one that is closed never is."""
        return not self.is_closed and now < self._rests_until

    def succeeded(self) -> None:
        """It did what it should, in time."""
        self._failures_in_row = 0

    def failed(self, why: str, now: float, problem: BaseException | None) -> None:
        """It raised, or took too long."""
        self.last_error = why
        self._failures_in_row += 1
        rests = self._failures_in_row >= REST_AFTER and not self.is_closed
        if rests:
            self._rests_until = now + REST_S
        if rests or now >= self._quiet_until:
            self._quiet_until = now + REST_S
            done = f"left out for {REST_S:g} s" if rests else "stopped a message" if self.is_closed else "left out once"
            _LOG.error("plugin %s (%s) failed, %s: %s", self.name, self.type, done, why, exc_info=problem)


class PluginHost:
    """What `Router` calls at a step in Python. `clock` is any that does not go back, in seconds."""

    def __init__(
        self,
        request: Sequence[Record],
        response: Sequence[Record],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.request, self.response = tuple(request), tuple(response)
        self._clock = clock

    def __call__(self, step: int, is_response: bool, view: View) -> None:
        record = (self.response if is_response else self.request)[step]
        started = self._clock()
        if record.is_resting(started):
            record.skipped += 1
            return
        problem = _asked(record.plugin, is_response, view)
        ended = self._clock()
        record.durations.observe(ended - started)
        if problem is not None:
            record.errors += 1
            why = traceback.format_exception_only(problem)[-1].strip()
        elif ended - started > record.budget_s:
            record.overruns += 1
            why = f"took {(ended - started) * 1e3:.1f} ms of {record.budget_s * 1e3:.1f}"
        else:
            record.succeeded()
            return
        view.undo()
        record.failed(why, ended, problem)
        if record.is_closed:
            text = f"{record.name} could not look at this {'response' if is_response else 'request'}"
            view.reject(500, error_body(500, text, code="guardrail_failed"))


def _asked(plugin: object, is_response: bool, view: View) -> BaseException | None:
    """Let the plugin have its turn: what it raised, or None."""
    message = Message(view)
    try:
        if is_response and isinstance(plugin, ResponsePlugin):
            plugin.on_response(message)
        elif isinstance(plugin, RequestPlugin):
            plugin.on_request(message)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # SystemExit too: a plugin does not decide over picker
        return raised
    return None
