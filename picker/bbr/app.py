"""`picker bbr` put together: the router, its base models, health and metrics, in one process."""

import asyncio
import contextlib
import gc
import logging
import signal

import uvloop

from picker._core.health import Health
from picker.admin.ports import listen as listen_admin
from picker.admin.routing import routing_families
from picker.bbr.admin import start_admin
from picker.bbr.routing import STOP_S, BodyRouting
from picker.config.bbr import BbrSettings
from picker.errors import UsageError
from picker.extproc.certificate import Certificate
from picker.extproc.readiness import Readiness
from picker.extproc.wire import WireServer
from picker.logs import configure_logging

__all__ = ["App", "serve"]

_LOG = logging.getLogger("picker.bbr")

QUIET_S = 1.0
"""A router that stops serves until its gateways have let go of it for so long."""


def serve(settings: BbrSettings) -> int:
    """Run the body-based router until SIGTERM or SIGINT has drained it. Raises PickerError if it cannot start."""
    configure_logging(settings.log.verbosity, settings.log.encoder)
    for warning in settings.warnings:
        _LOG.warning("%s", warning)
    app = App(settings)
    gc.collect()
    gc.freeze()
    try:
        uvloop.run(app.run())
    except OSError as problem:  # a port that is taken, a certificate that cannot be read
        raise UsageError(f"picker bbr: {problem}") from problem
    return 0


class App:
    """One body-based router. Made from settings, run once."""

    def __init__(self, settings: BbrSettings) -> None:
        self._settings = settings
        received = settings.listen.grpc_max_recv_msg_bytes
        self.routing = BodyRouting(settings.routing, settings.limits, message_bytes=received)
        self.readiness = Readiness()
        self.ports: dict[str, int] = {}
        """Where it listens once it does: `ext_proc`, `health`, `metrics`."""

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set or a signal comes, then drain. Raises OSError if it cannot listen."""
        stop = stop or asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self.readiness.set_ready(True)
            await stop.wait()
            await self._drain(self._settings.limits.drain_timeout_s)
        _LOG.info("stopped")

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        listen = self._settings.listen
        address = listen.bind_address or "::"
        health = Health()
        server = WireServer([health.methods()])
        stack.push_async_callback(server.stop, STOP_S)
        self.ports["health"] = await server.start(address, listen.grpc_health_port)

        def set_ready(ready: bool) -> None:
            health.is_ready = ready
            server.wake()

        self.readiness.subscribe(set_ready)
        listeners = listen_admin(listen.bind_address, listen.metrics_port)
        for listener in listeners:
            stack.callback(listener.close)
        self.ports["metrics"] = listeners[0].getsockname()[1]
        admin = await start_admin(
            lambda: routing_families(self.routing.figures()), lambda: self.readiness.is_ready, listeners
        )
        stack.push_async_callback(admin.cleanup)
        certificate = Certificate(listen.cert_path, reload=listen.enable_cert_reload) if listen.secure_serving else None
        _LOG.info("health on port %d, metrics on port %d", self.ports["health"], self.ports["metrics"])
        self.ports["ext_proc"] = await self.routing.start(stack, address, listen.grpc_port, certificate)

    async def _drain(self, limit_s: float) -> None:
        """Ask for no more traffic, serve what still comes and let it end, but not for ever."""
        self.readiness.set_ready(False)
        try:
            async with asyncio.timeout(limit_s):
                await self.routing.router.wait_idle(QUIET_S)
        except TimeoutError:
            _LOG.warning("cutting %d streams after %g s", self.routing.router.router.sessions, limit_s)
