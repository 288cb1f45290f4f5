"""The production shell: ext_proc at the speed of the wire.

Each socket read goes to a Cython connection over libnghttp2, and what it has to say comes back as one write. HTTP/2,
gRPC framing, protobuf and the session all run in C; Python is entered once for a read, not once for a message.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from picker._core.calls import Methods
from picker._core.extproc import ExtProc
from picker._core.h2 import Connection, Server
from picker._core.health import Health
from picker._core.session import FAIL_STOPPING
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.certificate import Certificate, certificate_of
from picker.extproc.readiness import Readiness
from picker.extproc.route import Route
from picker.extproc.shell import ALONE, Rules

__all__ = ["WireServer", "WireShell"]

_LOG = logging.getLogger("picker.extproc")

TICK_S = 0.1
"""How often connections look for what is due; deadlines are that exact."""
TURN_S = 0.01
"""How often it is looked whose turn has come while requests wait and nothing is read."""
BACKLOG = 1024
WRITE_BUFFER_BYTES = 1 << 20
"""Handed to a socket and not taken by it; with more than this its connection is neither written to nor read from."""
LAST_WORDS_S = 1.0
"""Before connections are closed: for those who wait to hear of it, however many they are."""
HEALTH_STREAMS = 1024
"""Streams of a connection beyond those of ext_proc."""


class _Peer(asyncio.BufferedProtocol):
    """One connection, between its socket and the core."""

    def __init__(self, server: "WireServer") -> None:
        self._server = server
        self._clock_ns = server.clock_ns
        self._transport = cast(asyncio.Transport, None)
        self._is_full = False

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.connection = Connection(self._server.core, self._clock_ns(), self)
        self._server.peers.add(self)
        self.flush()

    def get_buffer(self, sizehint: int) -> Any:
        return self._server.inbound

    def buffer_updated(self, nbytes: int) -> None:
        started_ns = self._clock_ns()
        self.connection.received(nbytes, started_ns)
        self._server.on_read(started_ns)
        self.flush()

    def pause_writing(self) -> None:
        """The peer does not read: nothing more is taken from it either, so that nothing piles up."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_full = False
        self.flush()
        if not self._is_full and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.peers.discard(self)
        self.connection.close(self._clock_ns())

    # What the server calls.

    @property
    def is_behind(self) -> bool:
        """Has the peer still to take something of what it was answered?"""
        return self._is_full or self.connection.pending > 0

    def flush(self) -> None:
        """Write what can be written."""
        while not self._is_full and (written := self.connection.take()) is not None:
            self._transport.write(written)
        if self.connection.is_over:
            self._transport.close()

    def tick(self, now_ns: int) -> None:
        """Do what is due by now."""
        self.connection.tick(now_ns)
        self.flush()

    def stop(self) -> None:
        """End what is open, say so if the peer listens, and close."""
        self.connection.stop()
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """The peer does not listen: let it go."""
        self._transport.abort()


class WireServer:
    """A gRPC server for `services` on an asyncio loop.

    `rules`: of `picker._core.h2.Server`. `certificate`: None for plaintext. `on_read(started_ns)` is called when a read
    has been dealt with, `on_tick()` every `TICK_S`, `on_stop()` when the time to end calls in good order is up;
    `is_told()`: what that answered has all been answered by now.
    """

    def __init__(
        self,
        services: Sequence[Methods],
        *,
        rules: Mapping[str, int] | None = None,
        certificate: Certificate | None = None,
        on_read: Callable[[int], None] = lambda started_ns: None,
        on_tick: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        is_told: Callable[[], bool] = lambda: True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.core = Server(services, rules=rules or {}, on_error=_log_error)
        self.inbound = memoryview(self.core)  # every socket is read into the same bytes, and dealt with at once
        self.on_read = on_read
        self._on_tick = on_tick
        self._on_stop = on_stop
        self._is_told = is_told
        self.clock_ns = clock_ns
        self.peers: set[_Peer] = set()
        self._certificate = certificate
        self._listener: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen; the port it listens on (port 0: a free one). Raises OSError if it cannot listen."""
        tls = self._certificate.context if self._certificate else None
        listening = _listen(address, port)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Peer(self), sock=listening, ssl=tls, backlog=BACKLOG)
        self._ticker = loop.call_later(TICK_S, self._tick)
        return int(listening.getsockname()[1])

    def wake(self) -> None:
        """Something that calls wait for has changed."""
        for peer in list(self.peers):
            peer.connection.wake()
            peer.flush()

    async def stop(self, grace_s: float) -> None:
        """Listen no more, ask peers to go elsewhere; what has not ended after `grace_s` is cut with UNAVAILABLE."""
        if self._listener is None:
            return
        self._listener.close()
        now_ns = self.clock_ns()
        for peer in list(self.peers):
            peer.connection.drain(now_ns)
            peer.flush()
        await _wait_until(lambda: not self.core.open_calls, grace_s)
        self._on_stop()
        await _wait_until(lambda: self._is_told() and not any(peer.is_behind for peer in self.peers), LAST_WORDS_S)
        for peer in list(self.peers):
            peer.stop()
        await _wait_until(lambda: not self.peers, TICK_S)  # what was said last is on its way
        for peer in list(self.peers):
            peer.abort()
        if self._ticker is not None:
            self._ticker.cancel()
        self._listener = None

    def _tick(self) -> None:
        now_ns = self.clock_ns()
        for peer in list(self.peers):
            peer.tick(now_ns)
        if self._certificate:
            self._certificate.renew(now_ns)
        self._on_tick()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)


class WireShell:
    """The production shell."""

    name = "wire"

    def __init__(
        self, readiness: Readiness, listen: ListenSettings, limits: LimitSettings, rules: Rules = ALONE
    ) -> None:
        self._listen = listen
        streams = 2 * limits.max_streams + HEALTH_STREAMS  # as many again are told that they are too many
        self._rules = {"message_bytes": listen.grpc_max_recv_msg_bytes, "streams": streams}
        self._extproc = ExtProc(timeout_ns=int(limits.request_timeout_s * 1e9), by_name=rules.by_name)
        self._picked = self._opened = 0
        self._quiet_since = -math.inf  # of the loop's clock
        self._health = Health(strict=rules.leader_election)
        self._servers: list[WireServer] = []
        self._turns: asyncio.Handle | None = None
        self._watcher: Callable[[], None] | None = None
        readiness.subscribe(self._set_ready)

    @property
    def open_streams(self) -> int:
        return self._extproc.open

    @property
    def unknown_pools(self) -> int:
        return self._extproc.unknown

    def set_pools(self, routes: Sequence[Route]) -> None:
        self._extproc.set_pools(routes)

    async def start_health(self) -> int:
        return await self._start(WireServer([self._health.methods()]), self._listen.grpc_health_port)

    async def start_extproc(self) -> int:
        listen = self._listen
        services = [self._extproc.methods(), *([self._health.methods()] if listen.health_checking else [])]
        server = WireServer(
            services,
            rules=self._rules,
            certificate=certificate_of(listen),
            on_read=self._after_read,
            on_tick=self._look,
            on_stop=self._turn_out,
            is_told=lambda: self._extproc.due() != 2,
        )
        return await self._start(server, listen.grpc_port)

    async def _start(self, server: WireServer, port: int) -> int:
        bound = await server.start(self._listen.bind_address or "::", port)
        self._servers.append(server)
        return bound

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self._look()
        while self._extproc.open or loop.time() - self._quiet_since < quiet_s:
            await asyncio.sleep(TICK_S / 10)
            self._look()

    async def stop(self, grace_s: float) -> None:
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        self._servers.clear()
        if self._turns is not None:
            self._turns.cancel()
            self._turns = None

    def watch(self, look: Callable[[], None]) -> None:
        self._watcher = look

    def turn(self) -> None:
        match self._extproc.due():
            case 2:
                self._dispatch()
            case 1 if self._turns is None:
                self._turns = asyncio.get_running_loop().call_later(TURN_S, self._dispatch)

    def _dispatch(self) -> None:
        """Turns for those who wait, a number at once; then the loop has its own."""
        if self._turns is not None:
            self._turns.cancel()
            self._turns = None
        started_ns = time.monotonic_ns()
        for peer in self._extproc.dispatch(started_ns):
            if peer is not None:
                peer.flush()
        self._extproc.count_dispatch((time.monotonic_ns() - started_ns) * 1e-9)
        self._count_picks(started_ns)
        if due := self._extproc.due():
            self._turns = asyncio.get_running_loop().call_later(0.0 if due == 2 else TURN_S, self._dispatch)

    def _turn_out(self) -> None:
        """What waits now would be cut off: the client is told better."""
        self._extproc.turn_out(FAIL_STOPPING, time.monotonic_ns())
        self.turn()

    def _look(self) -> None:
        """Has there been a stream since the last look? Asked all the time, so that a quiet while is known for one.

        Pools that were closed are let go of here, behind their last stream.
        """
        self._extproc.sweep()
        if self._watcher is not None:
            self._watcher()
        if self._extproc.open or self._extproc.opened != self._opened:
            self._opened = self._extproc.opened
            self._quiet_since = asyncio.get_running_loop().time()

    def _set_ready(self, ready: bool) -> None:
        self._health.is_ready = ready
        for server in self._servers:
            server.wake()

    def _after_read(self, started_ns: int) -> None:
        self._count_picks(started_ns)
        if self._extproc.due():
            self.turn()
        if self._watcher is not None:
            self._watcher()

    def _count_picks(self, started_ns: int) -> None:
        """Tell how long picks take: those of one read share its time."""
        picked = self._extproc.picked
        if picked != self._picked:
            self._picked = picked
            self._extproc.count_scheduling((time.monotonic_ns() - started_ns) * 1e-9)


async def _wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll until it holds, or the time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110  the core sets no events
        await asyncio.sleep(TICK_S / 10)


def _log_error(problem: Exception) -> None:
    """A plugin host's, or a bug of ours: the client has been told; here is the cause."""
    _LOG.error("a message could not be handled", exc_info=problem)


def _listen(address: str, port: int) -> socket.socket:
    """A bound socket; "::" takes IPv4 too. Raises OSError saying where it cannot be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if address == "::" and not socket.has_dualstack_ipv6():
        address, family = "0.0.0.0", socket.AF_INET  # noqa: S104  every interface there is
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=address == "::", backlog=BACKLOG)
    except OSError as problem:
        raise OSError(f"cannot listen on {where}: is the port taken? ({problem})") from problem
