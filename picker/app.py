"""The composition root: core, shell and health in this process; discovery, scraping and admin in one beside it."""

import asyncio
import contextlib
import gc
import logging
import secrets
import signal

import uvloop

from picker._core.engine import Engine
from picker.admin.ports import listen as listen_admin
from picker.bbr.routing import BodyRouting
from picker.config.describe import describe
from picker.config.settings import ServeSettings
from picker.config.support import ApproxPrefixCacheProducer, CoreMetricsExtractor
from picker.control.answers import Answers
from picker.control.messages import Start
from picker.control.supervisor import ControlProcess
from picker.discovery.file import EndpointsFile
from picker.discovery.resources import ResourcesFile
from picker.errors import ConfigError, ResourcesError, UsageError
from picker.extproc.certificate import certificate_of
from picker.extproc.readiness import Readiness
from picker.extproc.shell import make_shell
from picker.logs import configure_logging
from picker.policy.compile import Policy, compile_policy
from picker.pool import Pool
from picker.resources.rules import rewrite_rules
from picker.scrape.engines import configured_engines
from picker.scrape.fetch import tls_context

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
    app = App(settings)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection needs to look at it while requests wait
    try:
        uvloop.run(app.run())
    except OSError as problem:  # a port that is taken, a certificate that cannot be read
        raise UsageError(f"picker serve: {problem}") from problem
    return 0


class App:
    """One picker. Made from settings, run once."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        file = EndpointsFile(settings.discovery.endpoints_file)
        endpoints = file.load()  # a bad file at the start is an error, not a reason to wait
        self._fingerprint = file.fingerprint
        self._pool_name = settings.routing.pool_name or file.path.stem
        _check_engines(settings)
        self._policy: Policy = compile_policy(settings.config)
        self.engine = _engine(settings, self._policy)
        self.pool = Pool(self.engine, self._policy)
        self.pool.set_endpoints(endpoints)
        _set_rewrites(settings, self.engine)
        self.health = Readiness()
        self.shell = make_shell(self.engine, self.health, settings.listen, settings.limits)
        self.routing = _body_routing(settings)
        self.control: ControlProcess | None = None
        self.ports: dict[str, int] = {}
        """Where it listens once it does: `ext_proc`, `health`, `metrics`, and `bbr` if that is asked for."""

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set or a signal comes, then drain. Raises OSError if it cannot listen."""
        stop = stop or asyncio.Event()
        _stop_on_signals(stop)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.shell.stop, STOP_S)
            control = await self._start_control_plane(stack)
            self.ports["ext_proc"] = await self.shell.start_extproc()
            await self._start_body_routing(stack)
            await control.wait_up()
            self.health.set_ready(True)
            port, name = self.ports["ext_proc"], self.shell.name
            _LOG.info("serving ext_proc on port %d: %d endpoints, shell %s", port, len(self.pool.endpoints), name)
            await stop.wait()
            await self._drain(self._settings.limits.drain_timeout_s)
        _LOG.info("stopped")

    async def _start_control_plane(self, stack: contextlib.AsyncExitStack) -> ControlProcess:
        listen = self._settings.listen
        self.ports["health"] = await self.shell.start_health()
        listeners = listen_admin(listen.bind_address, listen.metrics_port)
        for listener in listeners:
            stack.callback(listener.close)
        self.ports["metrics"] = listeners[0].getsockname()[1]
        _LOG.info("health on port %d, metrics on port %d", self.ports["health"], self.ports["metrics"])
        tls_context(self._settings.scrape)  # a certificate that cannot be read is told here, at the start
        answers = Answers(
            self.engine, self._policy, self.pool, is_ready=lambda: self.health.is_ready, routing=self.routing
        )
        self.control = ControlProcess(
            answers, listeners=listeners, start=self._orders, known=lambda: self.pool.endpoints
        )
        self.control.start()
        stack.push_async_callback(self.control.stop)
        return self.control

    async def _start_body_routing(self, stack: contextlib.AsyncExitStack) -> None:
        if self.routing is not None:
            listen, port = self._settings.listen, self._settings.body_routing.port
            self.ports["bbr"] = await self.routing.start(stack, listen.bind_address, port, certificate_of(listen))

    def _orders(self, restarts: int, confirmed_ns: int) -> Start:
        """What the control process is to do."""
        settings = self._settings
        return Start(
            scrape=settings.scrape,
            discovery=settings.discovery,
            log=settings.log,
            extractor=settings.config.parameters(CoreMetricsExtractor),
            pool=self._pool_name,
            fingerprint="" if restarts else self._fingerprint,
            resources_pool=settings.routing.pool_name,
            confirmed_ns=confirmed_ns,
            restarts=restarts,
            shell=self.shell.name,
        )

    async def _drain(self, limit_s: float) -> None:
        """Ask for no more traffic, serve what still comes and let it end, but not for ever."""
        self.health.set_ready(False)
        _LOG.info("draining %d streams", self.engine.sessions)
        try:
            async with asyncio.timeout(limit_s):
                await self.shell.wait_idle(QUIET_S)
                if self.routing is not None:
                    await self.routing.router.wait_idle(QUIET_S)
        except TimeoutError:
            _LOG.warning("cutting %d streams after %g s", self.engine.sessions, limit_s)


def _set_rewrites(settings: ServeSettings, engine: Engine) -> None:
    """The first request finds the rules in force; the control process goes on from there. Raises ResourcesError."""
    path = settings.discovery.resources_file
    if path:
        rules = rewrite_rules(ResourcesFile(path).load(), pool=settings.routing.pool_name)
        try:
            engine.set_rewrites(rules)
        except OverflowError as problem:
            raise ResourcesError(str(problem), source=path, hint="leave some out") from None


def _body_routing(settings: ServeSettings) -> BodyRouting | None:
    """The body-based router, where it is asked for. Raises PickerError if it cannot be used."""
    if not settings.body_routing.port:
        return None
    return BodyRouting(settings.body_routing, settings.limits, message_bytes=settings.listen.grpc_max_recv_msg_bytes)


def _check_engines(settings: ServeSettings) -> None:
    """What the control process would trip over. Raises ConfigError."""
    try:
        configured_engines(settings.config.parameters(CoreMetricsExtractor))
    except ValueError as problem:
        raise ConfigError(
            str(problem),
            source=settings.config.source,
            field="core-metrics-extractor",
            hint="correct its engineConfigs",
        ) from problem


def _limits(settings: ServeSettings) -> dict[str, int]:
    """What the engine may hold; an `approx-prefix-cache-producer` says what an endpoint is thought to cache."""
    limits = {
        "body_bytes": settings.limits.body_cap_bytes,
        "header_bytes": settings.limits.header_cap_bytes,
        "sessions": settings.limits.max_streams,
        "surplus": settings.limits.max_streams,
    }
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
        response_tracking=settings.config.response_tracking,
        restores_models=settings.routing.response_model == "client",
        apis=policy.apis,
        reads_test_header=policy.reads_test_header,
        tells_served=policy.tells_served,
    )
    return engine


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
