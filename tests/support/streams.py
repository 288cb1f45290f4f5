"""ext_proc streams as a gateway sees them, over every shell: what is tested through these holds for each of them.

A new shell joins by a `Shell` of its own in `SHELLS`.
"""

import abc
import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import pytest

from picker._core.engine import Engine
from picker._core.session import (
    FAIL_EXHAUSTED,
    FAIL_INTERNAL,
    FAIL_STOPPING,
    STATE_PICKED,
    Session,
    SessionError,
)
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.grpcio import METHOD, ExtProc, start_server
from picker.extproc.readiness import Readiness
from picker.extproc.shell import SERVICE
from picker.extproc.wire import WireShell
from tests.support import messages
from tests.support.h2client import H2Client, H2Stream

PATH = f"/{SERVICE}/{METHOD}"
DEADLINE_S = 60.0
LARGEST = 64 << 20
UNLIMITED = (("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST))


class Stream(abc.ABC):
    """One ext_proc stream: one HTTP request."""

    @abc.abstractmethod
    async def send(self, *requests: bytes) -> None:
        """Messages to picker. Those sent after the end of the stream are lost."""

    @abc.abstractmethod
    async def receive(self, count: int = 1) -> list[Any]:
        """The next `count` replies. AssertionError if the stream ends before."""

    @abc.abstractmethod
    async def half_close(self) -> None:
        """The gateway has no more to say."""

    @abc.abstractmethod
    async def cancel(self) -> None:
        """The gateway resets the stream."""

    @abc.abstractmethod
    async def ended(self) -> str:
        """The gRPC status it ended with, by name. AssertionError if there are replies that nobody received."""

    async def finish(self) -> str:
        """The gateway ends the stream, as it does when all has passed."""
        await self.half_close()
        return await self.ended()


class Shell(abc.ABC):
    """What moves messages between streams and the core."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def __aenter__(self) -> "Shell":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @abc.abstractmethod
    def open(self) -> Stream:
        """A new stream."""

    @abc.abstractmethod
    def turn(self) -> None:
        """Something has changed by other than a stream."""

    @abc.abstractmethod
    async def idle(self) -> None:
        """Until the shell has seen the end of every stream."""

    async def renew(self) -> None:
        """Connect anew: picker may have ended the connection."""
        return None

    async def stop(self) -> None:
        """End every stream, as picker does when it stops and they do not end by themselves."""
        return None


# --- the core alone ---


class CoreStream(Stream):
    def __init__(self, shell: "CoreShell") -> None:
        self._shell = shell
        self._replies: deque[bytes] = deque()
        self._status = ""
        try:
            self._session: Session | None = Session(shell.engine, 0)
            shell.streams[self._session] = self
        except OverflowError:
            self._session, self._status = None, "RESOURCE_EXHAUSTED"

    async def send(self, *requests: bytes) -> None:
        for request in requests:
            if self._session is not None:
                self._do(self._session, functools.partial(self._session.feed, request, 0))
        self._shell.turn()

    def turn(self) -> None:
        """Its session's wait is over."""
        if self._session is not None:
            self._do(self._session, functools.partial(self._session.resume, 0))

    def _do(self, session: Session, answer: Callable[[], list[bytes]]) -> None:
        try:
            self._replies += answer()
        except SessionError:
            self._end("INVALID_ARGUMENT")
        except Exception as problem:
            self._failed(session, problem)
        else:
            if session.is_over:
                self._end("OK")

    def _failed(self, session: Session, problem: Exception) -> None:
        """As `Session.feed` says: by a refusal if nothing was answered yet, else with an error."""
        if session.state >= STATE_PICKED:
            self._end("INTERNAL")
            return
        self._replies += session.refuse(FAIL_EXHAUSTED if isinstance(problem, MemoryError) else FAIL_INTERNAL)
        self._end("OK")

    def _end(self, status: str) -> None:
        if self._session is not None:
            self._session.close(0)
            del self._shell.streams[self._session]
            self._session, self._status = None, status

    async def receive(self, count: int = 1) -> list[Any]:
        assert len(self._replies) >= count, f"{len(self._replies)} replies, not {count}"
        return [messages.parse(self._replies.popleft()) for _ in range(count)]

    async def half_close(self) -> None:
        self._end("OK")
        self._shell.turn()

    async def cancel(self) -> None:
        self._end("CANCELLED")
        self._shell.turn()

    async def ended(self) -> str:
        assert not self._replies
        assert self._status, "still open"
        return self._status


class CoreShell(Shell):
    """`Session` called directly."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.streams: dict[Session, CoreStream] = {}

    def open(self) -> CoreStream:
        return CoreStream(self)

    def turn(self) -> None:
        while called := self.engine.dispatch(0):
            for session in called:
                self.streams[session].turn()

    async def stop(self) -> None:
        self.engine.turn_out(FAIL_STOPPING, 0)
        self.turn()
        for stream in list(self.streams.values()):
            await stream.cancel()

    async def idle(self) -> None:
        return None


# --- grpcio, through a loopback port ---


class GrpcStream(Stream):
    def __init__(self, channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> None:
        self._call = channel.stream_stream(PATH)(metadata=metadata or None)

    async def send(self, *requests: bytes) -> None:
        for request in requests:
            if self._call.done():
                await asyncio.sleep(0)  # let others run: whoever sends until something happens must not starve it
                return
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # it ended meanwhile

    async def receive(self, count: int = 1) -> list[Any]:
        return [messages.parse(await self._reply()) for _ in range(count)]

    async def _reply(self) -> bytes:
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as problem:
            raise AssertionError(f"ended with {problem.code().name}: {problem.details()}") from None
        assert reply is not grpc.aio.EOF, "ended without a reply"
        return bytes(reply)

    async def half_close(self) -> None:
        if not self._call.done():
            await self._call.done_writing()

    async def cancel(self) -> None:
        self._call.cancel()

    async def ended(self) -> str:
        try:
            assert await self._call.read() is grpc.aio.EOF
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # the status says it
        return str((await self._call.code()).name)


class GrpcShell(Shell):
    """The reference server behind a real port, and a real client."""

    def __init__(self, engine: Engine, **extproc: Any) -> None:
        super().__init__(engine)
        self.extproc = ExtProc(engine, **extproc)

    async def __aenter__(self) -> "GrpcShell":
        self.server, self.port = await start_server(
            [self.extproc.handler()],
            address="127.0.0.1",
            port=0,
            max_receive_bytes=LARGEST,
            max_send_bytes=LARGEST,
        )
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=UNLIMITED)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.stop()

    async def stop(self) -> None:
        self.extproc.turns.turn_out()
        await self.server.stop(0.1)

    def turn(self) -> None:
        self.extproc.turns.look()

    def open(self) -> GrpcStream:
        return GrpcStream(self.channel)

    async def idle(self) -> None:
        await self.extproc.wait_idle()


class WireStream(H2Stream, Stream):
    """A client that takes an early end as it is meant: grpc.aio calls it INTERNAL when it is about to write."""


class WireShellUnderTest(Shell):
    """The production shell behind a real port, and a real client that is not ours."""

    def __init__(self, engine: Engine, **limits: Any) -> None:
        super().__init__(engine)
        listen = ListenSettings(
            bind_address="127.0.0.1", grpc_port=0, secure_serving=False, grpc_max_recv_msg_bytes=LARGEST
        )
        self.wire = WireShell(Readiness(), listen, LimitSettings(**limits))
        self.wire.set_pools([(engine, (), "")])

    async def __aenter__(self) -> "WireShellUnderTest":
        self.port = await self.wire.start_extproc()
        self.client = await H2Client(self.port).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.__aexit__()
        await self.stop()

    async def renew(self) -> None:
        await self.client.__aexit__()
        self.client = await H2Client(self.port).__aenter__()

    async def stop(self) -> None:
        await self.wire.stop(0)

    def turn(self) -> None:
        self.wire.turn()

    def open(self) -> Stream:
        return WireStream(self.client, PATH)

    async def idle(self) -> None:
        await self.wire.wait_idle()


SHELLS: list[type[Shell]] = [CoreShell, GrpcShell, WireShellUnderTest]
TARGETS = ("10.0.0.1:8000", "10.0.0.2:8000")


def engine(targets: tuple[str, ...] = TARGETS, **limits: int) -> Engine:
    """Two endpoints, the default policy of an engine (random)."""
    made = Engine(hash_seed=1, limits=limits)
    for target in targets:
        made.add_endpoint(target, target.rpartition(":")[0])
    return made


def within_deadline(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a test function of a coroutine function."""

    @functools.wraps(test)
    def run(*args: Any, **given: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **given), DEADLINE_S))

    return run


def on_every_shell(
    targets: tuple[str, ...] = TARGETS, **limits: int
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Makes a test function of a coroutine function given each `shell`, running over an engine with `limits`."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        @within_deadline
        async def run(shell: type[Shell], **given: Any) -> None:
            async with shell(engine(targets, **limits)) as running:
                await test(running, **given)
                await running.idle()
                assert (running.engine.sessions, running.engine.in_flight) == (0, 0)

        marked: Callable[..., None] = pytest.mark.parametrize("shell", SHELLS, ids=["core", "grpcio", "wire"])(run)
        return marked

    return decorate
