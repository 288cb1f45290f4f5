"""HTTP on the metrics port: `/metrics`, `/healthz`, `/readyz`, and why requests went where they did."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from picker.admin.metrics import Snapshot, page

__all__ = ["MOST_DECISIONS", "start_admin"]

Decisions = Callable[[int], Sequence[Mapping[str, Any]]]
MOST_DECISIONS = 1024
"""As many as the core keeps."""


class _Admin:
    def __init__(self, take: Callable[[], Snapshot], decisions: Decisions, is_ready: Callable[[], bool]) -> None:
        self._take = take
        self._decisions = decisions
        self._is_ready = is_ready

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        body = bytearray()
        for piece in page(self._take(), encode):
            body += piece
            await asyncio.sleep(0)  # requests come first
        return web.Response(body=body, headers={"Content-Type": content_type})

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
        return _json(self._decisions(max(0, min(limit, MOST_DECISIONS))))

    async def endpoints(self, _: web.Request) -> web.Response:
        """What picker knows of each endpoint."""
        return _json(self._take().endpoints)

    async def plugins(self, _: web.Request) -> web.Response:
        """How the Python plugins do."""
        return _json(self._take().plugins)


def _json(rows: Sequence[Mapping[str, Any]]) -> web.Response:
    return web.json_response(text=json.dumps(list(rows), indent=1) + "\n")


async def start_admin(
    *, take: Callable[[], Snapshot], decisions: Decisions, is_ready: Callable[[], bool], address: str, port: int
) -> tuple[web.AppRunner, int]:
    """A started server (stop it with `cleanup`) and its port. Raises OSError if it cannot listen.

    `decisions` gives the latest ones, at most as many as asked for. `address` "" is every interface.
    """
    admin = _Admin(take, decisions, is_ready)
    application = web.Application()
    application.router.add_get("/metrics", admin.metrics)
    application.router.add_get("/healthz", admin.healthz)
    application.router.add_get("/readyz", admin.readyz)
    application.router.add_get("/debug/decisions", admin.decisions)
    application.router.add_get("/debug/endpoints", admin.endpoints)
    application.router.add_get("/debug/plugins", admin.plugins)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address or None, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])
