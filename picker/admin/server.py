"""HTTP on the metrics port: `/metrics`, `/healthz`, `/readyz`, and why requests went where they did.

Probes are open to all; the rest may want to know who asks.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from picker.admin.metrics import Snapshot, page
from picker.admin.queue import queue_text, queue_view

__all__ = ["MOST_DECISIONS", "Judge", "Unavailable", "start_admin"]

Judge = Callable[[str, str], Awaitable[tuple[int, str]]]
"""Asked with what the Authorization header says and the path: a status and a text; 200 lets the request pass."""

_OPEN = frozenset(["/healthz", "/readyz"])
_UNAUTHORIZED = 401

Decisions = Callable[[int], Awaitable[Sequence[Mapping[str, Any]]]]
MOST_DECISIONS = 1024
"""As many as the core keeps."""


class Unavailable(Exception):
    """The data plane does not answer, which is answered 503."""


class _Admin:
    def __init__(
        self,
        take: Callable[[], Awaitable[Snapshot]],
        decisions: Decisions,
        is_ready: Callable[[], Awaitable[bool]],
    ) -> None:
        self._take = take
        self._decisions = decisions
        self._is_ready = is_ready

    async def metrics(self, request: web.Request) -> web.Response:
        _, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        body = bytearray()
        for piece in page(await self._take(), openmetrics=content_type.startswith("application/openmetrics-text")):
            body += piece
            await asyncio.sleep(0)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        """Alive is a picker whose data plane answers, whatever it says."""
        await self._is_ready()
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if await self._is_ready() else web.Response(text="not ready\n", status=503)

    async def decisions(self, request: web.Request) -> web.Response:
        """The latest picks with their scores, newest first; `?limit=N`."""
        try:
            limit = int(request.query.get("limit", "50"))
        except ValueError:
            return web.Response(text="limit must be a number\n", status=400)
        return _json(await self._decisions(max(0, min(limit, MOST_DECISIONS))))

    async def endpoints(self, _: web.Request) -> web.Response:
        """What picker knows of each endpoint, and which pool it is in."""
        pools = (await self._take()).pools
        return _json([{"pool": pool.name, **endpoint} for pool in pools for endpoint in pool.endpoints])

    async def queue(self, request: web.Request) -> web.Response:
        """Who waits in flow control of each pool, and what keeps them; `?format=text` as a table."""
        views = [queue_view(pool) for pool in (await self._take()).pools]
        if request.query.get("format") == "text":
            return web.Response(text="\n".join(map(queue_text, views)))
        return _json(views)

    async def plugins(self, _: web.Request) -> web.Response:
        """How the Python plugins do, those of each pool."""
        pools = (await self._take()).pools
        return _json([{"pool": pool.name, **plugin} for pool in pools for plugin in pool.plugins])


def _json(rows: Sequence[Mapping[str, Any]]) -> web.Response:
    return web.json_response(text=json.dumps(list(rows), indent=1) + "\n")


@web.middleware
async def _says_when_unavailable(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Unavailable as problem:
        return web.Response(text=f"{problem}\n", status=503)


def _asks_who(judge: Judge) -> Any:
    """What is not there is 404 for all, so that nobody is reviewed for it."""

    @web.middleware
    async def ask(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path in _OPEN or request.match_info.http_exception is not None:
            return await handler(request)
        status, text = await judge(request.headers.get("Authorization", ""), request.path)
        if status == 200:
            return await handler(request)
        challenge = {"WWW-Authenticate": "Bearer"} if status == _UNAUTHORIZED else None
        return web.Response(text=text, status=status, headers=challenge)

    return ask


async def start_admin(
    *,
    take: Callable[[], Awaitable[Snapshot]],
    decisions: Decisions,
    is_ready: Callable[[], Awaitable[bool]],
    sockets: Sequence[socket.socket],
    judge: Judge | None = None,
    tls: ssl.SSLContext | None = None,
) -> web.AppRunner:
    """A started server on what `ports.listen` gave; stop it with `cleanup`.

    `decisions` gives the latest ones, at most as many as asked for. All three may raise Unavailable. Without `judge`
    everyone may see everything; without `tls` it speaks plain HTTP.
    """
    admin = _Admin(take, decisions, is_ready)
    application = web.Application(middlewares=[*([_asks_who(judge)] if judge else []), _says_when_unavailable])
    application.router.add_get("/metrics", admin.metrics)
    application.router.add_get("/healthz", admin.healthz)
    application.router.add_get("/readyz", admin.readyz)
    application.router.add_get("/debug/decisions", admin.decisions)
    application.router.add_get("/debug/endpoints", admin.endpoints)
    application.router.add_get("/debug/plugins", admin.plugins)
    application.router.add_get("/debug/queue", admin.queue)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    for sock in sockets:
        await web.SockSite(runner, sock, ssl_context=tls).start()
    return runner
