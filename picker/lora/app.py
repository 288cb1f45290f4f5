"""`picker lora-sync` put together: the file, the model server, and the metrics page."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from picker.admin.ports import listen
from picker.errors import LoraConfigError, UsageError
from picker.lora.config import LoraFile
from picker.lora.sync import LoraSync, SyncSettings

__all__ = ["LoraSettings", "serve"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Everything the side-car needs."""

    config: Path
    metrics_port: int = 8080
    sync: SyncSettings = field(default_factory=SyncSettings)


class _Figures:
    """The metrics page's source."""

    def __init__(self, sync: LoraSync, file: LoraFile) -> None:
        self._sync, self._file = sync, file

    def collect(self) -> Iterator[Metric]:
        status = GaugeMetricFamily(
            "lora_syncer_adapter_status", "Status of LoRA adapters (1=loaded, 0=not_loaded)", labels=["adapter_name"]
        )
        for name, is_loaded in self._sync.loaded.items():
            status.add_metric([name], float(is_loaded))
        failures = CounterMetricFamily(
            "picker_lora_sync_failures", "Attempts to load or unload that failed.", labels=["action", "adapter_name"]
        )
        for (action, name), count in self._sync.failures.items():
            failures.add_metric([action, name], count)
        errors = CounterMetricFamily("picker_lora_sync_config_errors", "Contents of the file that could not be used.")
        errors.add_metric([], self._file.reload_errors)
        yield from (status, failures, errors)


async def serve(settings: LoraSettings) -> int:
    """Until SIGTERM or SIGINT. Raises UsageError if it cannot listen."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with aiohttp.ClientSession(trust_env=False) as session:
        sync = LoraSync(session, settings.sync)
        file = LoraFile(settings.config, on_change=sync.change)
        _begin(file, sync)
        async with _metrics(settings.metrics_port, sync, file):
            file.start()
            task = asyncio.ensure_future(sync.run())
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            await file.stop()
            task.cancel()
            stopped.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    _LOG.info("stopped; adapters stay as they are")
    return 0


def _begin(file: LoraFile, sync: LoraSync) -> None:
    """A file that is wrong, or not there yet, is waited for: a side-car must not keep its pod from starting."""
    try:
        sync.change(file.load())
    except LoraConfigError as problem:
        _LOG.error("no adapters yet: %s", problem)


@contextlib.asynccontextmanager
async def _metrics(port: int, sync: LoraSync, file: LoraFile) -> AsyncIterator[None]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(sync, file))

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if sync.is_current else web.Response(text="not ready\n", status=503)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    application = web.Application()
    for path, handler in (("/", page), ("/metrics", page), ("/healthz", healthz), ("/readyz", readyz)):
        application.router.add_get(path, handler)
    try:
        sockets = listen("", port)
    except OSError as problem:
        raise UsageError(f"picker lora-sync: --metrics-port {port}: {problem}") from problem
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        for sock in sockets:
            await web.SockSite(runner, sock).start()
        _LOG.info("metrics on port %d", sockets[0].getsockname()[1])
        yield
    finally:
        await runner.cleanup()
