"""What tests of the production shell over real sockets share."""

import asyncio
import contextlib
import functools
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from picker._core.engine import Engine
from picker._core.inbox import Inbox
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.readiness import Readiness
from picker.extproc.wire import WireServer, WireShell
from tests.support import messages as m
from tests.support.h2memory import ACK, DATA, PREFACE, SETTINGS, WINDOW_UPDATE, frame, frames, plain_headers
from tests.support.h2service import BEGIN, POST, chunk
from tests.support.streams import DEADLINE_S, engine

BODY = b'{"model": "m", "prompt": "hi"}'
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a test function of a coroutine function: the loop of production, and the one of most tests."""

    @functools.wraps(test)
    def run(loop: str, **given: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(**given), DEADLINE_S))

    asked = inspect.signature(test)
    first = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = asked.replace(parameters=[first, *asked.parameters.values()])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return marked


async def eventually(condition: Callable[[], bool]) -> None:
    """Until it holds; the loop runs on meanwhile."""
    while not condition():  # noqa: ASYNC110  the core sets no events
        await asyncio.sleep(0)


async def pick(stream: Any) -> None:
    await stream.send(m.request_headers("/v1/completions"), m.request_body(BODY))
    await stream.receive(2)


@contextlib.asynccontextmanager
async def running(made: Engine | None = None, **options: Any) -> AsyncIterator[tuple[WireShell, int]]:
    """A shell that serves ext_proc on a port of its own."""
    given = {"bind_address": "127.0.0.1", "grpc_port": 0, "secure_serving": False, "grpc_max_recv_msg_bytes": 4 << 20}
    listen = ListenSettings(**given | options)
    shell = WireShell(Readiness(), listen, LimitSettings())
    shell.set_pools([(made or engine(), (), "")])
    try:
        yield shell, await shell.start_extproc()
    finally:
        await shell.stop(0)


def server_of(shell: WireShell) -> WireServer:
    (server,) = shell._servers
    return server


# --- peers that do not read ---

OPENING = PREFACE + frame(SETTINGS, 0, 0, b"\0\4\x7f\0\0\0") + frame(SETTINGS, ACK, 0)
OPENING += frame(WINDOW_UPDATE, 0, 0, b"\x7f\0\0\0")


class Deaf:
    """Sends as it likes, lets the server send as it likes, and reads when told to; over a socket that holds little."""

    async def open(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        await self._loop.sock_connect(self.socket, ("127.0.0.1", port))
        await self.send(OPENING)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def send_until_stuck(self, data: bytes, is_stuck: Callable[[], bool]) -> int:
        """How much of `data` went out until the server took no more."""
        sent = 0
        while sent < len(data):
            try:
                sent += self.socket.send(data[sent : sent + 65_536])
            except BlockingIOError:
                if is_stuck():
                    break
            await asyncio.sleep(0)
        return sent

    async def read_all(self) -> bytes:
        """Until the server closes."""
        received = bytearray()
        while part := await self._loop.sock_recv(self.socket, 1 << 20):
            received += part
        return bytes(received)

    def close(self) -> None:
        self.socket.close()


STREAMS = range(1, 31, 2)
PARTS = 64
PART = bytes(range(250)) * 64


def flood() -> bytes:
    """Bodies of 15 streams, as much as the server's windows let a client send that never hears of it: 15 MB."""
    part = chunk(PART)
    sent = b""
    for number in STREAMS:
        sent += frame(1, 4, number, plain_headers(POST)) + frame(0, 0, number, BEGIN)
        sent += frame(0, 0, number, part) * PARTS
    return sent


def echoed(received: bytes) -> dict[int, bytes]:
    """The bodies that came back, by stream."""
    inboxes = {number: Inbox(1 << 20) for number in STREAMS}
    bodies = dict.fromkeys(STREAMS, b"")
    for kind, _, stream, payload in frames(received):
        for message in inboxes[stream].feed(payload) if kind == DATA else []:
            reply = m.parse(message)
            bodies[stream] += reply.request_body.response.body_mutation.streamed_response.body
    return bodies
