"""The reference shell: ext_proc over `grpc.aio`, bytes in, bytes out.

It decodes nothing: each message goes to the core as it came off the wire and the core's replies go back as they are.
Small and always there; the yardstick for faster shells.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from picker._core.codec import CodecError, Message
from picker._core.engine import Engine
from picker._core.pools import MANY, PoolNames
from picker._core.replies import no_pool
from picker._core.session import (
    FAIL_EXHAUSTED,
    FAIL_INTERNAL,
    FAIL_TIMEOUT,
    STATE_BODY,
    STATE_PICKED,
    Session,
    SessionError,
)
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.certificate import Certificate, Pem, certificate_of
from picker.extproc.health import Health
from picker.extproc.readiness import Readiness
from picker.extproc.route import Route
from picker.extproc.shell import ALONE, POOL_METADATA, SERVICE, Rules
from picker.extproc.turns import Turns

__all__ = ["METHOD", "ExtProc", "GrpcioShell", "server_credentials", "start_server"]

METHOD = "Process"

_LOG = logging.getLogger("picker.extproc")

LAST_WORDS_S = 0.1
"""Before a server is cut off: for those who wait to hear of it."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    # Gateways ping as they like; a GOAWAY for too many pings would fail every stream of the connection.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class ExtProc:
    """The ExternalProcessor service over engines, one for each pool; see `picker.extproc.shell.Shell.set_pools`.

    `engine`: that of the only pool; None: there are none until `set_pools`. `request_timeout_s`: how long a request
    body may take to arrive before the client is answered 408.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        request_timeout_s: float = 300.0,
        by_name: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.unknown = 0
        """Streams so far for a pool that was not known."""
        self.set_pools([] if engine is None else [(engine, (), "")])
        self.turns = Turns(lambda: self._engines, clock_ns)
        """Who waits."""
        self._by_name = by_name
        self._request_timeout_s = request_timeout_s
        self._clock_ns = clock_ns
        self._open = 0
        self._idle_since = -math.inf  # of the loop's clock
        self._idle, self._busy = asyncio.Event(), asyncio.Event()
        self._idle.set()

    @property
    def open(self) -> int:
        """Streams under way."""
        return self._open

    def set_pools(self, routes: Sequence[Route]) -> None:
        """Serve these from the next stream on."""
        names = PoolNames((name, authorities) for _, authorities, name in routes)
        self._names, self._engines = names, [engine for engine, _, _ in routes]

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        """Until no stream has been open for `quiet_s` seconds on end."""
        while True:
            await self._idle.wait()
            try:
                async with asyncio.timeout_at(self._idle_since + quiet_s):
                    await self._busy.wait()
            except TimeoutError:
                if not self._open:
                    return

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio` server serves; no serializers: messages stay bytes."""
        method = grpc.stream_stream_rpc_method_handler(self.process)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def process(self, _: Any, context: Any) -> None:
        """One stream, which is one HTTP request. Whatever ends it, the session is closed once."""
        chosen = self._choose(context)
        self._count(1)
        try:
            if isinstance(chosen, bytes):
                await self._turn_away(chosen, context)
            else:
                await self._process(chosen, context)
        finally:
            self._count(-1)

    def _choose(self, context: Any) -> Engine | bytes:
        """The engine of the pool a stream is for, or the refusal of one for a pool that is not known."""
        if len(self._engines) == 1 and not self._by_name:
            return self._engines[0]
        asked = _asked(context)
        found = self._names.find(asked, b"")
        if found >= 0:
            return self._engines[found]
        self.unknown += 1
        return no_pool(asked, is_name=bool(asked), is_many=found == MANY)

    async def _process(self, engine: Engine, context: Any) -> None:
        try:
            session = Session(engine, self._clock_ns())
        except OverflowError as full:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full))
        incoming = _Incoming(context)
        try:
            await self._serve(session, engine, incoming)
        finally:
            incoming.close()
            self.turns.forget(session)
            session.close(self._clock_ns())
            self.turns.look()

    async def _turn_away(self, refusal: bytes, context: Any) -> None:
        """As a pool that has no endpoints, when the request comes."""
        message: Any = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._request_timeout_s):
                message = await context.read()
        if message is grpc.aio.EOF:
            return
        try:
            is_observed = message is not None and Message(message).is_observed
        except CodecError as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        if not is_observed:
            await context.write(refusal)

    def _count(self, change: int) -> None:
        self._open += change
        if self._open:
            self._idle.clear()
            self._busy.set()
        else:
            self._idle_since = asyncio.get_running_loop().time()
            self._busy.clear()
            self._idle.set()

    async def _serve(self, session: Session, engine: Engine, incoming: "_Incoming") -> None:
        """Until the gateway has no more to say, or the client was answered in picker's own name."""
        deadline = asyncio.get_running_loop().time() + self._request_timeout_s
        while not session.is_over:
            message = await self._next(session, engine, incoming, deadline)
            if message is grpc.aio.EOF:
                return
            if message is None:
                replies: Sequence[bytes] = session.refuse(FAIL_TIMEOUT)
            else:
                replies = await self._answer(session, engine, message, incoming.context)
            for reply in replies:
                await incoming.context.write(reply)

    async def _next(self, session: Session, engine: Engine, incoming: "_Incoming", deadline: float) -> Any:
        """The next message, EOF, or _TURN, when the session's wait is over; None: a body is not here by `deadline`."""
        if session.is_waiting or session.is_evictable:
            event = self.turns.expect(session, engine)
            self.turns.look()
            message = await incoming.read_or(event)
            self.turns.forget(session)
            return message
        if session.state > STATE_BODY:
            return await incoming.read()
        try:
            async with asyncio.timeout_at(deadline):
                return await incoming.read()
        except TimeoutError:
            return None

    async def _answer(self, session: Session, engine: Engine, message: Any, context: Any) -> Sequence[bytes]:
        """What the core answers. A stream that cannot go on ends with an error, never as if all were well."""
        started_ns = self._clock_ns()
        was_answered = session.state >= STATE_PICKED
        try:
            replies = session.resume(started_ns) if message is _TURN else session.feed(message, started_ns)
        except SessionError as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(problem))
        except Exception as problem:  # a bug of ours, or no memory: the client must hear of it, the log too
            _LOG.exception("a message could not be handled")
            if not was_answered:
                return session.refuse(FAIL_EXHAUSTED if isinstance(problem, MemoryError) else FAIL_INTERNAL)
            await context.abort(grpc.StatusCode.INTERNAL, "the endpoint picker failed")
        finally:
            self.turns.look()
        if not was_answered and session.state == STATE_PICKED:
            engine.count_scheduling((self._clock_ns() - started_ns) * 1e-9)
        return replies


_TURN: Final = object()
"""In the place of a message: the session's wait is over."""


class _Incoming:
    """What the gateway sends on a stream, while something else may be waited for, too."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._reading: asyncio.Task[Any] | None = None

    async def read(self) -> Any:
        """The next message, or EOF."""
        if self._reading is None:
            return await self.context.read()
        message = await self._reading
        self._reading = None
        return message

    async def read_or(self, event: asyncio.Event) -> Any:
        """The same, or _TURN, should that happen first."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self.context.read())
        turn = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((self._reading, turn), return_when=asyncio.FIRST_COMPLETED)
        finally:
            turn.cancel()
        return _TURN if event.is_set() else await self.read()

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()


def _asked(context: Any) -> bytes:
    """The pool a stream names. Its authority would do as well, but grpcio shows that to nobody."""
    for name, value in context.invocation_metadata() or ():
        if name == POOL_METADATA:
            return value.encode() if isinstance(value, str) else bytes(value)
    return b""


def server_credentials(
    certificate: Certificate, clock_ns: Callable[[], int] = time.monotonic_ns
) -> grpc.ServerCredentials:
    """TLS as `certificate` has it, renewed when a client comes and it has changed."""

    def latest() -> grpc.ServerCertificateConfiguration | None:
        """Called by grpcio for each connection, on a thread of its own; None: as before."""
        return _configuration(certificate.pem) if certificate.renew(clock_ns()) else None

    asks_clients = bool(certificate.pem.clients)
    return grpc.dynamic_ssl_server_credentials(_configuration(certificate.pem), latest, asks_clients)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.clients or None)


async def start_server(
    handlers: Sequence[grpc.GenericRpcHandler],
    *,
    address: str,
    port: int,
    credentials: grpc.ServerCredentials | None = None,
    max_receive_bytes: int = 4 << 20,
    max_send_bytes: int = 4 << 20,
) -> tuple[grpc.aio.Server, int]:
    """A started server and the port it listens on (port 0: a free one). Raises OSError if it cannot listen."""
    limits = (
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", max_send_bytes),
    )
    server = grpc.aio.server(options=_OPTIONS + limits)
    server.add_generic_rpc_handlers(tuple(handlers))
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError as problem:  # all that grpcio says, whatever the cause
        cause = "is the port taken, or the certificate no good?" if credentials else "is the port taken?"
        raise OSError(f"cannot listen on {where}: {cause} ({problem})") from problem
    await server.start()
    return server, bound


class GrpcioShell:
    """The reference as a `Shell`."""

    name = "grpcio"

    def __init__(
        self, readiness: Readiness, listen: ListenSettings, limits: LimitSettings, rules: Rules = ALONE
    ) -> None:
        self._listen = listen
        self._extproc = ExtProc(request_timeout_s=limits.request_timeout_s, by_name=rules.by_name)
        self._health = Health(readiness, strict=rules.leader_election)
        self._servers: list[grpc.aio.Server] = []

    @property
    def open_streams(self) -> int:
        return self._extproc.open

    @property
    def unknown_pools(self) -> int:
        return self._extproc.unknown

    def set_pools(self, routes: Sequence[Route]) -> None:
        self._extproc.set_pools(routes)

    async def start_health(self) -> int:
        listen = self._listen
        server, port = await start_server(
            [self._health.handler()], address=listen.bind_address or "::", port=listen.grpc_health_port
        )
        self._servers.append(server)
        return port

    async def start_extproc(self) -> int:
        listen = self._listen
        certificate = certificate_of(listen)
        server, port = await start_server(
            [self._extproc.handler(), *([self._health.handler()] if listen.health_checking else [])],
            address=listen.bind_address or "::",
            port=listen.grpc_port,
            credentials=server_credentials(certificate) if certificate else None,
            max_receive_bytes=listen.grpc_max_recv_msg_bytes,
            max_send_bytes=listen.grpc_max_send_msg_bytes,
        )
        self._servers.append(server)
        return port

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        await self._extproc.wait_idle(quiet_s)

    async def stop(self, grace_s: float) -> None:
        stopping = [asyncio.ensure_future(server.stop(grace_s)) for server in self._servers]
        self._servers.clear()
        if stopping:
            await asyncio.wait(stopping, timeout=max(grace_s - LAST_WORDS_S, 0.0))
            self._extproc.turns.turn_out()
            await asyncio.gather(*stopping)

    def turn(self) -> None:
        self._extproc.turns.look()

    def watch(self, look: Callable[[], None]) -> None:
        self._extproc.turns.watcher = look
