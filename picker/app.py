"""The composition root: core, shell and health in this process; discovery, scraping and admin in one beside it."""

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
from collections.abc import Iterator, Mapping
from functools import partial

import uvloop

from picker._core.engine import Engine
from picker.admin.ports import listen as listen_admin
from picker.bbr.routing import BodyRouting
from picker.config.describe import describe
from picker.config.extras import InstalledTypes
from picker.config.file import ConfigFile
from picker.config.model import PickerConfig
from picker.config.settings import ServeSettings
from picker.control.admin import admin_certificate
from picker.control.answers import Answers
from picker.control.messages import Resign, Start
from picker.control.orders import Orders
from picker.control.supervisor import ControlProcess
from picker.discovery.file import EndpointsFile
from picker.discovery.resources import ResourcesFile
from picker.errors import ResourcesError, UsageError
from picker.extproc.certificate import certificate_of
from picker.extproc.readiness import Readiness
from picker.extproc.shell import Rules, make_shell
from picker.kube.lease import new_identity
from picker.logs import configure_logging
from picker.pools import Pools
from picker.quota.limits import RateLimiting
from picker.recipe import make_recipe, scraping
from picker.resources.rules import objectives, of_pool, rewrite_rules
from picker.scrape.fetch import tls_context
from picker.standing import Standing

__all__ = ["App", "serve"]

_LOG = logging.getLogger("picker")

STOP_S = 0.5
"""What is still open when picker has drained has so long to end."""
QUIET_S = 1.0
"""A picker that stops serves until its gateways have let go of it for so long."""


def serve(settings: ServeSettings) -> int:
    """Run the endpoint picker until SIGTERM or SIGINT has drained it. Raises PickerError if it cannot start."""
    configure_logging(settings.log.verbosity, settings.log.encoder)
    for warning in settings.warnings:
        _LOG.warning("%s", warning)
    for config in (settings.config, *settings.pool_configs.values()):
        _tell(config)
    if not (settings.discovery.endpoints_file or settings.kubernetes.in_use):
        raise UsageError("picker serve: nothing to route to: name a pool, or pass --endpoints-file FILE")
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
        self._scraping = scraping(settings.scrape, settings.config)
        self._configs = {"": settings.config, **settings.pool_configs}
        self._limits = RateLimiting({name: config.rate_limits for name, config in self._configs.items()})
        self._recipe = partial(
            make_recipe,
            settings,
            hash_seed=secrets.randbits(64),
            random_seed=secrets.randbits(64),
            quota=self._limits.quota,
        )
        self.pools = Pools(self._recipe(self._configs))
        self._file_pool, self._fingerprint = "", ""
        if settings.discovery.endpoints_file:
            self._file_pool, self._fingerprint = _open_file(settings, self.pools)
        self._identity = new_identity()
        self.health = Readiness()
        self.standing = Standing(self.health, must_lead=settings.election.enabled)
        self.shell = make_shell(
            self.health,
            settings.listen,
            settings.limits,
            Rules(leader_election=settings.election.enabled, by_name=settings.kubernetes.serves_several),
        )
        self.pools.subscribe(self.shell.set_pools)
        if self._limits.asks:
            self.shell.watch(self._limits.look)
        self.routing = _body_routing(settings)
        router = self.routing.router if self.routing is not None else None
        self.orders = Orders(
            self.pools,
            self.standing,
            name_models=router.set_base_models if router else None,
            turn=self.shell.turn,
        )
        self._config_files = [
            ConfigFile(path, config, extra_types=InstalledTypes(), on_change=partial(self._reconfigure, pool))
            for pool, path, config in _config_files(settings)
        ]
        self.control: ControlProcess | None = None
        self.ports: dict[str, int] = {}
        """Where it listens once it does: `ext_proc`, `health`, `metrics`, and `bbr` if that is asked for."""

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set or a signal comes, then drain. Raises OSError if it cannot listen."""
        stop = stop or asyncio.Event()
        _stop_on_signals(stop)
        async with contextlib.AsyncExitStack() as stack:
            self._limits.start(stack, self.shell.turn)  # and stop it behind the shell: its last requests are charged
            stack.push_async_callback(self.shell.stop, STOP_S)
            control = await self._start_control_plane(stack)
            self.ports["ext_proc"] = await self.shell.start_extproc()
            await self._start_body_routing(stack)
            self._follow_config(stack)
            await control.wait_up()
            if self._file_pool:  # of a cluster the control process says so
                self.standing.set_synced(True)
            port, name = self.ports["ext_proc"], self.shell.name
            _LOG.info("serving ext_proc on port %d: shell %s, %s", port, name, self._served())
            await stop.wait()
            await self._drain(self._settings.limits.drain_timeout_s)
        _LOG.info("stopped")

    def _served(self) -> str:
        if not self._file_pool:
            return "pools as the cluster says"
        return f"{len(self.pools[self._file_pool].pool.endpoints)} endpoints of {self._file_pool}"

    async def _start_control_plane(self, stack: contextlib.AsyncExitStack) -> ControlProcess:
        listen = self._settings.listen
        self.ports["health"] = await self.shell.start_health()
        listeners = listen_admin(listen.bind_address, listen.metrics_port)
        for listener in listeners:
            stack.callback(listener.close)
        self.ports["metrics"] = listeners[0].getsockname()[1]
        _LOG.info("health on port %d, metrics on port %d", self.ports["health"], self.ports["metrics"])
        tls_context(self._scraping.scrape)  # a certificate that cannot be read is told here, at the start
        admin_certificate(self._settings.admin)
        answers = Answers(
            self.pools,
            self.orders,
            is_ready=lambda: self.health.is_ready,
            figures=self._figures,
            routing=self.routing.figures if self.routing is not None else None,
            rate_limits=self._limits.figures,
        )
        self.control = ControlProcess(
            answers,
            listeners=listeners,
            start=self._start,
            known=lambda: {served.name: served.pool.told for served in self.pools},
        )
        self.control.start()
        stack.push_async_callback(self.control.stop)
        return self.control

    async def _start_body_routing(self, stack: contextlib.AsyncExitStack) -> None:
        if self.routing is not None:
            listen, port = self._settings.listen, self._settings.body_routing.port
            self.ports["bbr"] = await self.routing.start(stack, listen.bind_address, port, certificate_of(listen))

    def _follow_config(self, stack: contextlib.AsyncExitStack) -> None:
        for file in self._config_files:
            file.start()
            stack.push_async_callback(file.stop)

    def _start(self, restarts: int, confirmed_ns: int) -> Start:
        """What the control process is to do."""
        settings = self._settings
        return Start(
            scrape=self._scraping.scrape,
            discovery=settings.discovery,
            kubernetes=settings.kubernetes,
            election=settings.election,
            admin=settings.admin,
            log=settings.log,
            extractor=self._scraping.extractor,
            identity=self._identity,
            pool=self._file_pool,
            fingerprint="" if restarts else self._fingerprint,
            confirmed_ns=confirmed_ns,
            restarts=restarts,
            shell=self.shell.name,
            is_leaving=self.standing.is_draining,
        )

    def _figures(self) -> Mapping[str, float]:
        """What is counted here, beside the pools."""
        return {
            "picker_config_reloads": sum(file.reloads for file in self._config_files),
            "picker_config_errors": sum(file.reload_errors for file in self._config_files),
            "picker_unknown_pool": self.shell.unknown_pools,
            "picker_pools_refused": self.orders.refused,
            "picker_orders_failed": self.orders.failed,
        }

    def _reconfigure(self, pool: str, config: PickerConfig) -> None:
        """Put it in force, all of it or nothing. Raises ConfigError, OSError, and what no engine takes."""
        configs = {**self._configs, pool: config}
        found = scraping(self._settings.scrape, configs[""])
        tls_context(found.scrape)  # the control process could not go on, nor be started again
        limit = self._limits.prepare(pool, config.rate_limits)
        self.pools.reconfigure(self._recipe(configs))
        limit()
        self._configs = configs
        if found != self._scraping and self.control is not None:
            self.control.send([found])
        self._scraping = found
        _tell(config)

    async def _drain(self, limit_s: float) -> None:
        """Ask for no more traffic, serve what still comes and let it end, but not for ever."""
        self.standing.drain()
        if self.control is not None:
            self.control.send([Resign()])
        _LOG.info("draining %d streams", self.shell.open_streams)
        try:
            async with asyncio.timeout(limit_s):
                await self.shell.wait_idle(QUIET_S)
                if self.routing is not None:
                    await self.routing.router.wait_idle(QUIET_S)
        except TimeoutError:
            _LOG.warning("cutting %d streams after %g s", self.shell.open_streams, limit_s)


def _config_files(settings: ServeSettings) -> Iterator[tuple[str, str, PickerConfig]]:
    """The pool ("": all that have none of their own), the file to follow, and what it held."""
    if settings.config_file:
        yield "", settings.config_file, settings.config
    for pool, config in settings.pool_configs.items():
        yield pool, config.source, config


def _tell(config: PickerConfig) -> None:
    for warning in config.warnings:
        _LOG.warning("%s", warning)
    for line in describe(config).splitlines():
        _LOG.info("%s", line)


def _open_file(settings: ServeSettings, pools: Pools) -> tuple[str, str]:
    """The pool of the endpoints file, and the fingerprint of what was read. Raises PickerError for a bad file.

    The first request finds the rules in force; the control process goes on from there.
    """
    file = EndpointsFile(settings.discovery.endpoints_file)
    endpoints = file.load()  # a bad file at the start is an error, not a reason to wait
    kubernetes = settings.kubernetes
    name = kubernetes.pools[0] if kubernetes.pools else f"{kubernetes.pool_namespace or 'default'}/{file.path.stem}"
    served = pools.open(name)
    served.pool.set_endpoints(endpoints)
    if settings.discovery.resources_file:
        wanted = name.rpartition("/")[2] if kubernetes.pools else ""
        _set_objects(settings.discovery.resources_file, wanted, served.engine)
    return name, file.fingerprint


def _set_objects(path: str, pool: str, engine: Engine) -> None:
    """Raises ResourcesError."""
    objects = of_pool(ResourcesFile(path).load(), pool=pool)
    try:
        engine.set_rewrites(rewrite_rules(objects))
        engine.set_objectives(objectives(objects))
    except OverflowError as problem:
        raise ResourcesError(str(problem), source=path, hint="leave some out") from None


def _body_routing(settings: ServeSettings) -> BodyRouting | None:
    """The body-based router, where it is asked for. Raises PickerError if it cannot be used."""
    if not settings.body_routing.port:
        return None
    return BodyRouting(settings.body_routing, settings.limits, message_bytes=settings.listen.grpc_max_recv_msg_bytes)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
