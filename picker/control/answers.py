"""The data plane's side: does what the control process says and answers what it asks, a little at a time."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from picker._core.copies import busy_targets, copy_endpoints, copy_series, copy_totals
from picker._core.engine import Engine
from picker._core.rewrite import Rewrites
from picker.bbr.routing import BodyRouting
from picker.control.messages import (
    Ask,
    Change,
    End,
    EndpointFigures,
    FromControl,
    FromData,
    Observed,
    RewriteFigures,
    Rewriting,
    Rows,
    SeriesFigures,
    Text,
    Vitals,
)
from picker.policy.compile import Policy
from picker.pool import Pool

__all__ = ["Answers", "decisions"]

# Per message, so that making one takes some 20 us at most.
SERIES = 8
ENDPOINTS = 64
REWRITES = 64
DECISIONS = 8


class Answers:
    """Obeys and answers on behalf of one engine and its pool. `confirmed_ns`: when the control process was last heard.

    `is_ready`: whether picker asks for traffic. `routing`: the body-based router, if there is one.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        pool: Pool,
        *,
        is_ready: Callable[[], bool],
        routing: BodyRouting | None = None,
    ) -> None:
        self.confirmed_ns = time.monotonic_ns()
        self._engine = engine
        self._policy = policy
        self._pool = pool
        self._is_ready = is_ready
        self._rewrites = Rewrites()
        self._routing = routing

    def take(self, message: FromControl) -> Iterator[FromData]:
        """Does what the message says; what is to be sent back is made as it is asked for."""
        self.confirmed_ns = time.monotonic_ns()
        if isinstance(message, Change):
            self._pool.change(gone=message.gone, come=message.come)
        elif isinstance(message, Observed):
            for key, load in message.loads:
                self._pool.observe(key, load)
        elif isinstance(message, Rewriting):
            self._rewrite(message)
        else:
            return self._answer(message)
        return iter(())

    def _rewrite(self, piece: Rewriting) -> None:
        if piece.is_first:  # what came of others before has no end
            self._rewrites = Rewrites()
        self._rewrites.extend(piece.rules)
        if piece.is_last:
            self._engine.set_rewrites(self._rewrites)

    def _answer(self, question: Ask) -> Iterator[FromData]:
        match question.what:
            case "ready":
                yield Text(b"ready" if self._is_ready() else b"")
            case "busy":
                yield Text(busy_targets(self._engine))
            case "decisions":
                yield from self._decisions(question.limit)
            case "snapshot":
                yield from self._snapshot()
        yield End()

    def _snapshot(self) -> Iterator[FromData]:
        engine = self._engine
        yield Vitals(
            now_ns=time.monotonic_ns(),
            sessions=engine.sessions,
            buffered_bytes=engine.buffered_bytes,
            index_blocks=engine.index_blocks,
            index_bytes=engine.index_bytes,
            totals=copy_totals(engine),
            plugins=self._plugins(),
            routing=self._routing.figures() if self._routing else None,
        )
        for first in count(0, SERIES):
            if (copies := copy_series(engine, first, SERIES)) is None:
                break
            yield SeriesFigures(copies)
        for first in count(0, ENDPOINTS):
            if (copies := copy_endpoints(engine, first, ENDPOINTS)) is None:
                break
            yield EndpointFigures(copies)
        for first in count(0, REWRITES):
            if (rows := engine.rewrite_counts(first, REWRITES)) is None:
                break
            yield RewriteFigures(rows)  # also none: many counters that count nothing are looked at one piece a turn

    def _decisions(self, limit: int) -> Iterator[FromData]:
        before = 0
        while limit > 0 and (rows := decisions(self._engine, self._policy, min(limit, DECISIONS), before=before)):
            yield Rows(rows)
            limit -= len(rows)
            before = rows[-1]["number"]
            if before <= 1:
                return

    def _plugins(self) -> list[dict[str, Any]]:
        return [record.view() for record in self._policy.host.records.values()] if self._policy.host else []


def decisions(engine: Engine, policy: Policy, limit: int, *, before: int = 0) -> list[dict[str, Any]]:
    """The latest picks, their scores named by plugin, `age_s` instead of a clock reading."""
    now_ns = time.monotonic_ns()
    rows = []
    for decision in engine.decisions(limit, before=before):
        age_s = round((now_ns - decision.pop("at_ns")) * 1e-9, 3)
        rows.append({**decision, "age_s": age_s, "scores": policy.explain(decision["scores"])})
    return rows
