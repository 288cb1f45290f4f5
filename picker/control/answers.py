"""The data plane's side of the link: orders are done, questions answered, a little at a time."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from picker._core.copies import busy_targets, copy_endpoints, copy_series, copy_totals
from picker._core.engine import Engine
from picker._core.flowcopies import copy_flow
from picker.control.messages import (
    Ask,
    End,
    EndpointFigures,
    FlowFigures,
    FromControl,
    FromData,
    PoolFigures,
    RewriteFigures,
    Rows,
    SeriesFigures,
    Text,
    Vitals,
)
from picker.control.orders import Orders
from picker.policy.compile import Policy
from picker.pools import Pools, ServedPool

__all__ = ["Answers", "decisions"]

# Per message, so that making one takes some 20 us at most.
SERIES = 8
ENDPOINTS = 64
REWRITES = 64
DECISIONS = 8


class Answers:
    """Obeys by `orders` and answers on behalf of the pools. `confirmed_ns`: when the control process was last heard.

    `is_ready`: whether picker asks for traffic. `figures`: what the data plane counts beside its pools, by name.
    `routing`: the figures of the body-based router, if there is one. `rate_limits`: those of `RateLimiting`.
    """

    def __init__(
        self,
        pools: Pools,
        orders: Orders,
        *,
        is_ready: Callable[[], bool],
        figures: Callable[[], Mapping[str, float]] = dict,
        routing: Callable[[], dict[str, Any]] | None = None,
        rate_limits: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self.confirmed_ns = time.monotonic_ns()
        self._pools = pools
        self._orders = orders
        self._is_ready = is_ready
        self._figures = figures
        self._routing = routing
        self._rate_limits = rate_limits

    def take(self, message: FromControl) -> Iterator[FromData]:
        """Does what the message says; what is to be sent back is made as it is asked for."""
        self.confirmed_ns = time.monotonic_ns()
        if isinstance(message, Ask):
            return self._answer(message)
        self._orders.take(message)
        return iter(())

    def _answer(self, question: Ask) -> Iterator[FromData]:
        match question.what:
            case "ready":
                yield Text(b"ready" if self._is_ready() else b"")
            case "busy":
                for served in self._pools:
                    yield Text(busy_targets(served.engine) + b"\n")
            case "decisions":
                for served in self._pools:
                    yield from _decisions(served, question.limit)
            case "snapshot":
                yield from self._snapshot()
        yield End()

    def _snapshot(self) -> Iterator[FromData]:
        yield Vitals(
            now_ns=time.monotonic_ns(),
            figures=dict(self._figures()),
            routing=self._routing() if self._routing else None,
            rate_limits=self._rate_limits(),
        )
        for served in self._pools:
            yield from _figures(served)


def _figures(served: ServedPool) -> Iterator[FromData]:
    engine = served.engine
    host = served.policy.host
    yield PoolFigures(
        pool=served.name,
        sessions=engine.sessions,
        buffered_bytes=engine.buffered_bytes,
        index_blocks=engine.index_blocks,
        index_bytes=engine.index_bytes,
        totals=copy_totals(engine),
        plugins=[record.view() for record in host.records.values()] if host else [],
    )
    for first in count(0, SERIES):
        if (copies := copy_series(engine, first, SERIES)) is None:
            break
        yield SeriesFigures(copies)
    for first in count(0, ENDPOINTS):
        if (copies := copy_endpoints(engine, first, ENDPOINTS)) is None:
            break
        yield EndpointFigures(copies)
    yield FlowFigures(copy_flow(engine, time.monotonic_ns()))
    for first in count(0, REWRITES):
        if (rows := engine.rewrite_counts(first, REWRITES)) is None:
            break
        yield RewriteFigures(rows)  # also none: many counters that count nothing are looked at one piece a turn


def _decisions(served: ServedPool, limit: int) -> Iterator[FromData]:
    before = 0
    while limit > 0 and (rows := decisions(served.engine, served.policy, min(limit, DECISIONS), before=before)):
        yield Rows([{**row, "pool": served.name} for row in rows])
        limit -= len(rows)
        before = rows[-1]["number"]
        if before <= 1:
            return


def decisions(engine: Engine, policy: Policy, limit: int, *, before: int = 0) -> list[dict[str, Any]]:
    """The latest picks, their scores named by plugin, `age_s` instead of a clock reading."""
    now_ns = time.monotonic_ns()
    rows = []
    for decision in engine.decisions(limit, before=before):
        age_s = round((now_ns - decision.pop("at_ns")) * 1e-9, 3)
        rows.append({**decision, "age_s": age_s, "scores": policy.explain(decision["scores"])})
    return rows
