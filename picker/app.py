"""The composition root: joins core, shell, discovery, scraping and admin into one process."""

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from typing import Any

import uvloop

from picker import __version__
from picker._core.engine import Engine
from picker.admin.metrics import Counter, Snapshot
from picker.admin.server import start_admin
from picker.config.describe import describe
from picker.config.settings import ServeSettings
from picker.config.support import ApproxPrefixCacheProducer, CoreMetricsExtractor, PassthroughParser
from picker.discovery.file import EndpointsFile
from picker.errors import ConfigError, UsageError
from picker.extproc.readiness import Readiness
from picker.extproc.shell import make_shell
from picker.logs import configure_logging
from picker.policy.compile import Policy, compile_policy
from picker.pool import Pool
from picker.scrape.engines import EngineTable, configured_engines
from picker.scrape.scraper import Scraper
from picker.types import Endpoint

__all__ = ["App", "serve"]

_LOG = logging.getLogger("picker")

MAX_ENDPOINT_BLOCKS = 1 << 24  # index blocks, 1 G tokens: more than any engine caches
STOP_S = 0.5
"""What is still open when picker has drained has so long to end."""
QUIET_S = 1.0
"""A picker that stops serves until its gateways have let go of it for so long."""


def serve(settings: ServeSettings) -> int:
    """Run the endpoint picker until SIGTERM or SIGINT has drained it. Raises PickerError if it cannot start."""
    configure_logging(settings.log.verbosity, settings.log.encoder)
    for warning in (*settings.warnings, *settings.config.warnings):
        _LOG.warning("%s", warning)
    for line in describe(settings.config).splitlines():
        _LOG.info("%s", line)
    if not settings.discovery.endpoints_file:
        raise UsageError("picker serve: there are no endpoints to serve: pass --endpoints-file FILE")
    say_what_has_no_effect(settings)
    app = App(settings)
    try:
        uvloop.run(app.run())
    except OSError as problem:  # a port that is taken, a certificate that cannot be read
        raise UsageError(f"picker serve: {problem}") from problem
    return 0


def say_what_has_no_effect(settings: ServeSettings) -> None:
    """Warn of what is accepted so that old configurations start, and changes nothing."""
    if any(isinstance(parser.parameters, PassthroughParser) for parser in settings.config.parsers):
        _LOG.warning("passthrough-parser has no effect: OpenAI completions are read by their path, all else passes")


class App:
    """One picker. Made from settings, run once."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._discovery = EndpointsFile(
            settings.discovery.endpoints_file,
            on_change=self._set_endpoints,
            interval_s=settings.discovery.endpoints_interval_s,
        )
        endpoints = self._discovery.load()  # a bad file at the start is an error, not a reason to wait
        self._policy: Policy = compile_policy(settings.config)
        self.engine = _engine(settings, self._policy)
        self.pool = Pool(self.engine, self._policy)
        self.health = Readiness()
        self.shell = make_shell(self.engine, self.health, settings.listen, settings.limits)
        self.ports: dict[str, int] = {}
        """Where it listens once it does: `ext_proc`, `health`, `metrics`."""
        self._scraper = Scraper(self.pool, settings=settings.scrape, engines=_engines(settings))
        self._set_endpoints(endpoints)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set or a signal comes, then drain. Raises OSError if it cannot listen."""
        stop = stop or asyncio.Event()
        _stop_on_signals(stop)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.shell.stop, STOP_S)
            await self._start_control_plane(stack)
            self.ports["ext_proc"] = await self.shell.start_extproc()
            self.health.set_ready(True)
            port, name = self.ports["ext_proc"], self.shell.name
            _LOG.info("serving ext_proc on port %d: %d endpoints, shell %s", port, len(self.pool.endpoints), name)
            await stop.wait()
            await self._drain(self._settings.limits.drain_timeout_s)
        _LOG.info("stopped")

    async def _start_control_plane(self, stack: contextlib.AsyncExitStack) -> None:
        listen = self._settings.listen
        self.ports["health"] = await self.shell.start_health()
        admin, self.ports["metrics"] = await start_admin(
            take=self.snapshot,
            decisions=self.decisions,
            is_ready=lambda: self.health.is_ready,
            address=listen.bind_address,
            port=listen.metrics_port,
        )
        stack.push_async_callback(admin.cleanup)
        _LOG.info("health on port %d, metrics on port %d", self.ports["health"], self.ports["metrics"])
        if self._settings.scrape.enabled:
            await self._scraper.start()
            stack.push_async_callback(self._scraper.stop)
        self._discovery.start()
        stack.push_async_callback(self._discovery.stop)

    def _set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        self.pool.set_endpoints(endpoints)
        self._scraper.set_endpoints(self.pool.endpoints)

    async def _drain(self, limit_s: float) -> None:
        """Ask for no more traffic, serve what still comes and let it end, but not for ever."""
        self.health.set_ready(False)
        _LOG.info("draining %d streams", self.engine.sessions)
        try:
            async with asyncio.timeout(limit_s):
                await self.shell.wait_idle(QUIET_S)
        except TimeoutError:
            _LOG.warning("cutting %d streams after %g s", self.engine.sessions, limit_s)

    # What people and Prometheus see.

    def snapshot(self) -> Snapshot:
        """Everything the metrics page shows, now."""
        now_ns = time.monotonic_ns()
        return Snapshot(
            version=__version__,
            shell=self.shell.name,
            pool=self._settings.routing.pool_name or self._discovery.path.stem,
            now_ns=now_ns,
            stale_after_s=self._settings.scrape.staleness_threshold_s,
            stats=self.engine.stats(),
            endpoints=self.engine.endpoints(now_ns),
            sessions=self.engine.sessions,
            buffered_bytes=self.engine.buffered_bytes,
            index_blocks=self.engine.index_blocks,
            index_bytes=self.engine.index_bytes,
            plugins=self._plugins(),
            counters=self._counters(),
        )

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The latest picks, their scores named by plugin, `age_s` instead of a clock reading."""
        now_ns = time.monotonic_ns()
        rows = []
        for decision in self.engine.decisions(limit):
            age_s = round((now_ns - decision.pop("at_ns")) * 1e-9, 3)
            rows.append({**decision, "age_s": age_s, "scores": self._policy.explain(decision["scores"])})
        return rows

    def _plugins(self) -> list[dict[str, Any]]:
        return [record.view() for record in self._policy.host.records.values()] if self._policy.host else []

    def _counters(self) -> dict[str, Counter]:
        scraper, discovery = self._scraper, self._discovery
        failures = [((reason,), float(count)) for reason, count in sorted(scraper.failures.items())]
        return {
            "picker_scrapes": ("Metrics pages read.", (), [((), float(scraper.scrapes))]),
            "picker_scrape_failures": ("Metrics pages not read, by cause.", ("reason",), failures),
            "picker_scrape_seconds": ("Time spent reading metrics pages.", (), [((), scraper.seconds)]),
            "picker_scrape_malformed_lines": (
                "Lines of wanted series that could not be read.",
                (),
                [((), float(scraper.malformed_lines))],
            ),
            "picker_endpoints_file_errors": (
                "Edits of the endpoints file not taken.",
                (),
                [((), float(discovery.reload_errors))],
            ),
        }


def _engines(settings: ServeSettings) -> EngineTable:
    try:
        return configured_engines(settings.config.parameters(CoreMetricsExtractor))
    except ValueError as problem:
        raise ConfigError(
            str(problem),
            source=settings.config.source,
            field="core-metrics-extractor",
            hint="correct its engineConfigs",
        ) from problem


def _limits(settings: ServeSettings) -> dict[str, int]:
    """What the engine may hold; an `approx-prefix-cache-producer` says what an endpoint is thought to cache."""
    limits = {"body_bytes": settings.limits.body_cap_bytes, "sessions": settings.limits.max_streams}
    producer = settings.config.parameters(ApproxPrefixCacheProducer)
    if producer is not None and producer.lruCapacityPerServer > 0:
        limits["endpoint_blocks"] = min(producer.lruCapacityPerServer, MAX_ENDPOINT_BLOCKS)
    return limits


def _engine(settings: ServeSettings, policy: Policy) -> Engine:
    """The seed is a secret of this process: no client can aim at another's prefix."""
    engine = Engine(
        hash_seed=secrets.randbits(64),
        random_seed=secrets.randbits(64),
        prior_rate=policy.prior_rate,
        limits=_limits(settings),
    )
    engine.set_policy(
        policy.steps,
        wanted=policy.wanted,
        plugins=policy.host,
        ignore_subset=settings.routing.disable_endpoint_subset_filter,
        session_header=policy.session_header,
        lets_go=settings.config.response_tracking == "off",
    )
    return engine


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
