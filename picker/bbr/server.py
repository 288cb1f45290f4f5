"""The body-based router on the wire: the core's router behind an ext_proc port, timed and counted."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from picker import __version__
from picker._core.bbr import STEP_FIELD, Router
from picker._core.names import Names
from picker.bbr.catalogue import Plan
from picker.bbr.host import Record
from picker.config.settings import LimitSettings
from picker.extproc.certificate import Certificate
from picker.extproc.wire import HEALTH_STREAMS, TICK_S, WireServer

__all__ = ["BodyRouter"]


class BodyRouter:
    """One body-based router. `message_bytes`: largest gRPC message taken."""

    def __init__(self, plan: Plan, limits: LimitSettings, *, message_bytes: int) -> None:
        self._plan = plan
        self.router = Router(
            plan.request,
            plan.response,
            headers=plan.headers,
            host=plan.host(),
            body_bytes=limits.body_cap_bytes,
            sessions=limits.max_streams,
            timeout_ns=int(limits.request_timeout_s * 1e9),
        )
        self._rules = {"message_bytes": message_bytes, "streams": limits.max_streams + HEALTH_STREAMS}
        self._server: WireServer | None = None
        self._models: Mapping[str, str] = {}
        self._built_in = [record for record in plan.request_records if record.plugin is None]
        self._python = [record for record in (*plan.request_records, *plan.response_records) if record.plugin]
        self._answered = self._seen = 0
        self._python_s = 0.0
        self._quiet_since = -math.inf  # of the loop's clock

    def set_base_models(self, models: Mapping[str, str]) -> None:
        """The base model of each model, from now on. MemoryError, and what was known stays."""
        self.router.set_names(Names({name.encode(): base.encode() for name, base in models.items()}))
        self._models = models

    async def start(self, address: str, port: int, certificate: Certificate | None) -> int:
        """Listen; the port it listens on (port 0: a free one). Raises OSError if it cannot listen."""
        self._server = WireServer(
            [self.router.methods()],
            rules=self._rules,
            certificate=certificate,
            on_read=self._count,
            on_tick=self._look,
        )
        return await self._server.start(address, port)

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        """Until no stream has been open for `quiet_s` seconds on end."""
        loop = asyncio.get_running_loop()
        self._look()
        while self.router.sessions or loop.time() - self._quiet_since < quiet_s:
            await asyncio.sleep(TICK_S / 10)
            self._look()

    async def stop(self, grace_s: float) -> None:
        """Take no more; what has not ended after `grace_s` is cut. Harmless if nothing was started."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def figures(self) -> dict[str, Any]:
        """What there is to show, as plain values: those of `Router.figures`, and by field and plugin."""
        figures = self.router.figures()
        request, response = figures.pop("request"), figures.pop("response")
        return figures | {
            "version": __version__,
            "sessions": self.router.sessions,
            "buffered_bytes": self.router.buffered_bytes,
            "base_models": len(self._models),
            "fields": self._fields(request),
            "plugins": [
                *_plugins("request", self._plan.request_records, request),
                *_plugins("response", self._plan.response_records, response),
            ],
        }

    def _fields(self, steps: list[dict[str, int]]) -> dict[str, dict[str, int]]:
        """Counts by field; of steps that read the same field, those of the first: of STEP_FIELD, if there is one."""
        order = sorted(self._plan.fields, key=lambda number: self._plan.request[number][0] != STEP_FIELD)
        found: dict[str, dict[str, int]] = {}
        for number in order:
            found.setdefault(self._plan.fields[number], steps[number])
        return found

    def _look(self) -> None:
        """Has there been a stream since the last look?"""
        if self.router.sessions or self.router.requests != self._seen:
            self._seen = self.router.requests
            self._quiet_since = asyncio.get_running_loop().time()

    def _count(self, started_ns: int) -> None:
        """Tell how long the core's own steps take: requests answered in one read, and their steps, share its time."""
        count = self.router.answered - self._answered
        if not count or not self._built_in:
            return
        self._answered += count
        python_s = sum(record.durations.total for record in self._python)
        took_s = (time.monotonic_ns() - started_ns) * 1e-9 - (python_s - self._python_s)
        self._python_s = python_s
        for record in self._built_in:
            record.durations.observe(max(took_s, 0.0) / count / len(self._built_in), count)


def _plugins(point: str, records: list[Record], steps: list[dict[str, int]]) -> list[dict[str, Any]]:
    return [
        {
            "point": point,
            "type": record.type,
            "name": record.name,
            "buckets": record.durations.buckets(),
            "total": record.durations.total,
            "errors": record.errors,
            "overruns": record.overruns,
            "skipped": record.skipped,
            "unseen": step["skipped"],
            "last_error": record.last_error,
        }
        for record, step in zip(records, steps, strict=True)
    ]
