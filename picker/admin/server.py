"""HTTP on the metrics port: `/metrics`, `/healthz`, `/readyz`, and why requests went where they did."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from picker.admin.metrics import Snapshot, SnapshotCollector

__all__ = ["start_admin"]

Rows = Callable[[int], Sequence[Mapping[str, Any]]]
MAX_ROWS = 1024


class _Admin:
    def __init__(self, take: Callable[[], Snapshot], decisions: Rows, is_ready: Callable[[], bool]) -> None:
        self._take = take
        self._decisions = decisions
        self._is_ready = is_ready
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(SnapshotCollector(take))

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._is_ready() else web.Response(text="not ready\n", status=503)

    async def decisions(self, request: web.Request) -> web.Response:
        """The latest picks with their scores, newest first; `?limit=N`."""
        try:
            limit = int(request.query.get("limit", "50"))
        except ValueError:
            return web.Response(text="limit must be a number\n", status=400)
        rows = self._decisions(max(0, min(limit, MAX_ROWS)))
        return web.json_response(list(rows), dumps=_dumps)

    async def endpoints(self, _: web.Request) -> web.Response:
        """What picker knows of each endpoint."""
        return web.json_response(list(self._take().endpoints), dumps=_dumps)


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


async def start_admin(
    *, take: Callable[[], Snapshot], decisions: Rows, is_ready: Callable[[], bool], address: str, port: int
) -> tuple[web.AppRunner, int]:
    """A started server (stop it with `cleanup`) and its port. Raises OSError if it cannot listen."""
    admin = _Admin(take, decisions, is_ready)
    application = web.Application()
    application.router.add_get("/metrics", admin.metrics)
    application.router.add_get("/healthz", admin.healthz)
    application.router.add_get("/readyz", admin.readyz)
    application.router.add_get("/debug/decisions", admin.decisions)
    application.router.add_get("/debug/endpoints", admin.endpoints)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address or None, port).start()
    return runner, int(runner.addresses[0][1])
