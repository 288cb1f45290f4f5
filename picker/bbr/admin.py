"""HTTP on the metrics port of `picker bbr`: `/metrics`, `/healthz`, `/readyz`."""

import socket
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from picker.admin.exposition import AnyFamily

__all__ = ["page", "start_admin"]


def page(families: Iterable[AnyFamily], *, openmetrics: bool = False) -> bytes:
    """The page as text (version 0.0.4) or OpenMetrics (1.0.0)."""
    lines: list[str] = []
    for family in families:
        lines += family.head(openmetrics=openmetrics)
        for rows in family.rows():
            lines += rows
    return "".join(lines + (["# EOF\n"] if openmetrics else [])).encode()


async def start_admin(
    families: Callable[[], Iterable[AnyFamily]], is_ready: Callable[[], bool], sockets: Sequence[socket.socket]
) -> web.AppRunner:
    """A started server on what `picker.admin.ports.listen` gave; stop it with `cleanup`."""

    async def metrics(request: web.Request) -> web.Response:
        _, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        is_open = content_type.startswith("application/openmetrics-text")
        return web.Response(body=page(families(), openmetrics=is_open), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if is_ready() else web.Response(text="not ready\n", status=503)

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    for sock in sockets:
        await web.SockSite(runner, sock).start()
    return runner
