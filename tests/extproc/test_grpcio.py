"""What the reference shell does by itself: time limits, draining, bugs, sizes."""

import asyncio
import logging
import socket
from typing import Any

import grpc
import grpc.aio
import pytest

from picker.extproc import grpcio
from picker.extproc.grpcio import ExtProc, start_server
from tests.support import messages as m
from tests.support.streams import PATH, GrpcShell, GrpcStream, engine, within_deadline
from tests.support.virtual_time import pass_time, virtual

BODY = b'{"model": "m", "prompt": "hi"}'


async def pick(stream: GrpcStream) -> None:
    await stream.send(m.request_headers("/v1/completions"), m.request_body(BODY))
    await stream.receive(2)


# --- time ---


@pytest.mark.parametrize(
    "sent", [[], [m.request_headers()], [m.request_headers(), m.request_body(b"{", end_of_stream=False)]]
)
@within_deadline
async def test_a_body_that_does_not_arrive_in_time_is_408(sent: list[bytes]) -> None:
    async with GrpcShell(engine(), request_timeout_s=0.05) as shell:
        stream = shell.open()
        await stream.send(*sent)
        (reply,) = await stream.receive()
        assert reply.immediate_response.status.code == 408
        assert await stream.ended() == "OK"
        assert shell.engine.sessions == 0


@within_deadline
async def test_the_time_of_a_pick_is_counted_once_per_pick() -> None:
    async with GrpcShell(engine()) as shell:
        stream = shell.open()
        await pick(stream)
        await stream.send(m.response_headers())
        await stream.receive()
        await stream.finish()
        refused = shell.open()
        await refused.send(m.request_headers(), m.request_body(b"{"))
        await refused.receive()
        assert await refused.ended() == "OK"
        buckets, total = shell.engine.stats()["scheduling_s"]
        assert buckets[-1][1] == 1
        assert total > 0


# --- draining ---


@within_deadline
async def test_streams_under_way_end_in_their_own_time_while_the_server_stops() -> None:
    async with GrpcShell(engine()) as shell:
        stream = shell.open()
        await pick(stream)
        idle = asyncio.ensure_future(shell.idle())
        stopped = asyncio.ensure_future(shell.server.stop(20))
        refused = GrpcShell.open(shell)
        await refused.send(m.request_headers())
        assert await refused.ended() in ("UNAVAILABLE", "CANCELLED", "INTERNAL")  # by when it met the GOAWAY
        assert not idle.done()
        await stream.send(m.response_headers(), m.response_body(b"x", end_of_stream=True))
        await stream.receive(2)
        assert await stream.finish() == "OK"
        await asyncio.gather(idle, stopped)


@within_deadline
async def test_streams_are_cut_when_the_time_is_up() -> None:
    async with GrpcShell(engine()) as shell:
        stream = shell.open()
        await pick(stream)
        await shell.server.stop(0)
        assert await stream.ended() in ("CANCELLED", "UNAVAILABLE")
        await shell.idle()
        assert (shell.engine.sessions, shell.engine.in_flight) == (0, 0)


class Context:
    """As much of a `ServicerContext` as `process` uses, under the test's hand."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.replies: list[bytes] = []
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        return await self.requests.get()

    async def write(self, reply: bytes) -> None:
        self.replies.append(reply)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted = code, details
        raise grpc.aio.AbortError


def served(extproc: ExtProc, context: Context) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(extproc.process(None, context))


@virtual
async def test_a_quiet_while_is_waited_for_and_new_streams_begin_it_anew() -> None:
    loop = asyncio.get_running_loop()
    extproc = ExtProc(engine())
    first, second = Context(), Context()
    running = served(extproc, first)
    await asyncio.sleep(0)
    quiet = loop.create_task(extproc.wait_idle(1.0))
    loop.call_later(3.0, first.requests.put_nowait, grpc.aio.EOF)  # ends at 3
    started = loop.time()
    await running
    late: list[asyncio.Task[None]] = []
    loop.call_later(0.9, lambda: late.append(served(extproc, second)))  # opens at 3.9
    loop.call_later(2.0, second.requests.put_nowait, grpc.aio.EOF)  # ends at 5
    await quiet
    assert loop.time() - started == pytest.approx(6.0)
    assert late[0].done()
    await extproc.wait_idle(1.0)
    assert loop.time() - started == pytest.approx(6.0)  # it has been quiet long enough already


@virtual
async def test_a_body_that_trickles_in_is_408_too() -> None:
    loop, context, made = asyncio.get_running_loop(), Context(), engine()
    started, running = loop.time(), served(ExtProc(made, request_timeout_s=5.5), context)
    context.requests.put_nowait(m.request_headers())
    for second in range(1, 9):
        loop.call_later(second, context.requests.put_nowait, m.request_body(b" ", end_of_stream=False))
    await running
    assert loop.time() - started == pytest.approx(5.5)
    assert [m.parse(reply).immediate_response.status.code for reply in context.replies] == [408]
    assert made.sessions == 0


@virtual
async def test_a_request_that_is_all_there_has_all_the_time() -> None:
    context, made = Context(), engine()
    running = served(ExtProc(made, request_timeout_s=5.0), context)
    context.requests.put_nowait(m.request_headers("/v1/completions"))
    context.requests.put_nowait(m.request_body(BODY))
    await pass_time(1000.0)
    for message in (m.response_headers(), m.response_body(b"x", end_of_stream=True), grpc.aio.EOF):
        context.requests.put_nowait(message)
    await running
    kinds = [m.parse(reply).WhichOneof("response") for reply in context.replies]
    assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]


# --- bugs ---


class Broken:
    """A session in which a problem shows at a given state."""

    def __init__(self, session: Any, at: int, problem: Exception) -> None:
        self._session, self._at, self._problem = session, at, problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def feed(self, message: bytes, now_ns: int) -> list[bytes]:
        if self._session.state == self._at:
            raise self._problem
        replies: list[bytes] = self._session.feed(message, now_ns)
        return replies


def broken_at(monkeypatch: pytest.MonkeyPatch, state: int, problem: Exception) -> None:
    made = grpcio.Session
    monkeypatch.setattr(grpcio, "Session", lambda *given: Broken(made(*given), state, problem))


@pytest.mark.parametrize(("problem", "status"), [(ZeroDivisionError("a bug"), 500), (MemoryError("no memory"), 429)])
def test_a_bug_before_the_request_is_answered_is_told_to_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception, status: int
) -> None:
    @within_deadline
    async def body() -> None:
        async with GrpcShell(engine()) as shell:
            stream = shell.open()
            await stream.send(m.request_headers("/v1/completions"), m.request_body(BODY))
            (reply,) = await stream.receive()
            assert reply.immediate_response.status.code == status
            assert await stream.ended() == "OK"
            assert shell.engine.sessions == 0

    broken_at(monkeypatch, grpcio.STATE_BODY, problem)
    body()
    ours = [(record.name, record.levelno) for record in caplog.records if not record.name.startswith("grpc.")]
    assert ours == [("picker.extproc", logging.ERROR)]
    assert f"{type(problem).__name__}: {problem}" in caplog.text


def test_a_bug_after_that_is_an_error_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is left to say: an end without an error would look as if all were well."""

    @within_deadline
    async def body() -> None:
        async with GrpcShell(engine()) as shell:
            stream = shell.open()
            await pick(stream)
            await stream.send(m.response_headers())
            assert await stream.ended() == "INTERNAL"
            await shell.idle()
            assert (shell.engine.sessions, shell.engine.in_flight) == (0, 0)

    broken_at(monkeypatch, grpcio.STATE_PICKED, ZeroDivisionError("a bug"))
    body()


class Stuck(Context):
    """Its peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()

    async def write(self, reply: bytes) -> None:
        self.writing.set()
        await asyncio.get_running_loop().create_future()


@within_deadline
async def test_a_client_that_stops_reading_is_let_go_when_it_leaves() -> None:
    context, made = Stuck(), engine()
    running = served(ExtProc(made), context)
    context.requests.put_nowait(m.request_headers(end_of_stream=True))
    await context.writing.wait()
    assert made.in_flight == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (made.sessions, made.in_flight) == (0, 0)


# --- the server ---


@within_deadline
async def test_a_message_over_the_limit_is_refused_by_grpc() -> None:
    extproc = ExtProc(engine())
    server, port = await start_server([extproc.handler()], address="127.0.0.1", port=0, max_receive_bytes=100_000)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = GrpcStream(channel)
        await stream.send(m.request_headers(), m.request_body(b"x" * 200_000))
        assert await stream.ended() == "RESOURCE_EXHAUSTED"
    await extproc.wait_idle()
    await server.stop(None)


@within_deadline
async def test_a_reply_over_the_limit_is_an_error_not_a_hang() -> None:
    extproc = ExtProc(engine(chunk_bytes=500_000))
    server, port = await start_server([extproc.handler()], address="127.0.0.1", port=0, max_send_bytes=100_000)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = GrpcStream(channel)
        await stream.send(m.request_headers("/x"), m.request_body(b"x" * 200_000))
        await stream.receive()
        assert await stream.ended() == "RESOURCE_EXHAUSTED"
    await extproc.wait_idle()
    await server.stop(None)


@within_deadline
async def test_it_listens_on_ipv6_too() -> None:
    if not socket.has_ipv6 or not _has_loopback6():
        pytest.skip("this machine has no IPv6 loopback")
    server, port = await start_server([ExtProc(engine()).handler()], address="::1", port=0)
    async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
        stream = GrpcStream(channel)
        await pick(stream)
        assert await stream.finish() == "OK"
    await server.stop(None)


def _has_loopback6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@within_deadline
async def test_a_port_that_is_taken_is_said() -> None:
    server, port = await start_server([], address="127.0.0.1", port=0)
    with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port}: is the port taken\?"):
        await start_server([], address="127.0.0.1", port=port)
    await server.stop(None)


def test_the_path_is_the_one_gateways_call() -> None:
    assert PATH == "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
