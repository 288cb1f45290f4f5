"""Brings the model server's adapters in line with the file, now and whenever either changes."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from picker.lora.config import LoraConfig
from picker.lora.server import ModelServerError, VllmServer

__all__ = ["LoraSync", "SyncSettings"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """How the side-car goes about it."""

    health_timeout_s: float = 300.0
    """How long a model server may take to be healthy, before that is said and tried again."""
    health_interval_s: float = 2.0
    """Between two looks at its health."""
    reconcile_s: float = 5.0
    """Between two looks at its adapters."""


class LoraSync:
    """One model server. `change` when the file did; `run` until canceled.

    Nothing that is loaded or not is remembered but for metrics: each look asks the model server, which may have been
    restarted since.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: SyncSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._session, self._settings, self._clock, self._sleep = session, settings, clock, sleep
        self._config = LoraConfig()
        self._changed = asyncio.Event()
        self.loaded: dict[str, bool] = {}
        """Whether the adapters that the file tells of are there, as last seen."""
        self.failures: Counter[tuple[str, str]] = Counter()
        """Of (what was tried, adapter)."""
        self.is_current = False
        """Whether the last look left everything as the file says."""

    def change(self, config: LoraConfig) -> None:
        """The file says this now."""
        self._config = config
        for warning in config.warnings:
            _LOG.warning("%s", warning)
        if config.disputed:
            _LOG.warning("adapters that must and must not exist are let be: adapters=%s", ",".join(config.disputed))
        self._forget(config)
        self._changed.set()

    def _forget(self, config: LoraConfig) -> None:
        """What the file does not tell of has no status."""
        names = {*(adapter.id for adapter in config.wanted), *config.unwanted}
        self.loaded = {name: is_there for name, is_there in self.loaded.items() if name in names}

    async def run(self) -> None:
        """Looks again and again; never ends by itself."""
        while True:
            self._changed.clear()
            self.is_current = await self.reconcile()
            waiting = asyncio.ensure_future(self._sleep(self._settings.reconcile_s))
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([waiting, changed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                changed.cancel()

    async def reconcile(self) -> bool:
        """One look, once the model server is healthy; whether everything is as the file says then."""
        config = self._config
        self._forget(config)
        if not len(config):
            return True
        server = VllmServer(self._session, config.address)
        if not await self._healthy(server, config):
            _LOG.error(
                "model server is not healthy: address=%s timeout_s=%g", config.address, self._settings.health_timeout_s
            )
            return False
        try:
            there = await server.models()
        except ModelServerError as problem:
            _LOG.error("adapters cannot be listed: address=%s error=%s", config.address, problem)
            return False
        return await self._load(server, config, there) & await self._unload(server, config, there)

    async def _healthy(self, server: VllmServer, config: LoraConfig) -> bool:
        """Waits for it, unless the file names another one meanwhile."""
        end_s = self._clock() + self._settings.health_timeout_s
        while not await server.is_healthy():
            if self._clock() >= end_s or self._config is not config:
                return False
            await self._sleep(self._settings.health_interval_s)
        return True

    async def _load(self, server: VllmServer, config: LoraConfig, there: frozenset[str]) -> bool:
        for adapter in config.wanted:
            if adapter.id not in there:
                await self._try("load", server, adapter.id, server.load(adapter), is_there=True)
            else:
                self.loaded[adapter.id] = True
        return all(self.loaded[adapter.id] for adapter in config.wanted)

    async def _unload(self, server: VllmServer, config: LoraConfig, there: frozenset[str]) -> bool:
        for name in config.unwanted:
            if name in there:
                await self._try("unload", server, name, server.unload(name), is_there=False)
            else:
                self.loaded[name] = False
        return not any(self.loaded[name] for name in config.unwanted)

    async def _try(self, what: str, server: VllmServer, name: str, attempt: Awaitable[None], *, is_there: bool) -> None:
        """A failure is told and counted; the next look tries again."""
        try:
            await attempt
        except ModelServerError as problem:
            self.loaded[name] = not is_there
            self.failures[what, name] += 1
            _LOG.error("adapter failed to %s: adapter=%s address=%s error=%s", what, name, server.address, problem)
        else:
            self.loaded[name] = is_there
            _LOG.info("adapter %sed: adapter=%s address=%s", what, name, server.address)
