"""What the production shell does by itself: sockets that stall, half-open peers, draining, ports, TLS, bugs."""

import asyncio
import contextlib
import functools
import inspect
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import uvloop

from picker._core.engine import Engine
from picker._core.inbox import Inbox
from picker._core.session import Session
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc import wire
from picker.extproc.certificate import LOOK_NS, Certificate
from picker.extproc.readiness import Readiness
from picker.extproc.wire import WireServer, WireShell
from tests.support import messages as m
from tests.support.certificates import client_context, needs_openssl, self_signed
from tests.support.h2client import H2Client, framed
from tests.support.h2memory import ACK, DATA, PREFACE, SETTINGS, WINDOW_UPDATE, frame, frames, plain_headers
from tests.support.h2service import BEGIN, CHECK, POST, PROCESS, chunk
from tests.support.streams import DEADLINE_S, GrpcStream, WireShellUnderTest, WireStream, engine, within_deadline
from tests.support.virtual_time import pass_time, virtual

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
    shell = WireShell(made or engine(), Readiness(), listen, LimitSettings())
    try:
        yield shell, await shell.start_extproc()
    finally:
        await shell.stop(0)


def server_of(shell: WireShell) -> WireServer:
    (server,) = shell._servers
    return server


# --- peers that do not read ---


class Deaf:
    """Sends as it likes, lets the server send as it likes, and reads when told to; over a socket that holds little."""

    async def open(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        await self._loop.sock_connect(self.socket, ("127.0.0.1", port))
        settings = frame(SETTINGS, 0, 0, b"\0\4\x7f\0\0\0") + frame(SETTINGS, ACK, 0)
        await self.send(PREFACE + settings + frame(WINDOW_UPDATE, 0, 0, b"\x7f\0\0\0"))

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


@on_each_loop
async def test_a_peer_that_never_reads_is_not_read_from() -> None:
    async with running() as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        await eventually(lambda: len(server_of(shell).peers) == 1)
        (peer,) = server_of(shell).peers
        data = flood()
        sent = await deaf.send_until_stuck(data, lambda: peer._is_full)
        assert sent < len(data) - (4 << 20)
        assert not peer._transport.is_reading()
        assert peer._transport.get_write_buffer_size() < wire.WRITE_BUFFER_BYTES + (1 << 19)
        assert peer.connection.pending < 1 << 20
        async with H2Client(port) as other:  # nobody else is kept waiting
            stream = WireStream(other, PROCESS)
            await pick(stream)
            assert await stream.finish() == "OK"
        assert peer._is_full
        deaf.close()
        await eventually(lambda: shell._engine.sessions == 0)
        assert server_of(shell).core.open_calls == 0


@on_each_loop
async def test_a_peer_that_reads_again_gets_all_there_is() -> None:
    async with running() as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        await eventually(lambda: len(server_of(shell).peers) == 1)
        (peer,) = server_of(shell).peers
        data = flood()
        sent = await deaf.send_until_stuck(data, lambda: peer._is_full)
        received = asyncio.ensure_future(deaf.read_all())
        await deaf.send(data[sent:])
        counted = server_of(shell).core.counters
        await eventually(lambda: counted()["messages"] == len(STREAMS) * (1 + PARTS))
        await eventually(lambda: not peer.connection.pending and not peer._transport.get_write_buffer_size())
        assert peer._transport.is_reading()
        deaf.socket.shutdown(socket.SHUT_WR)
        assert echoed(await received) == dict.fromkeys(STREAMS, PART * PARTS)
        await eventually(lambda: not server_of(shell).peers)
        deaf.close()


@on_each_loop
async def test_stopping_does_not_wait_for_a_peer_that_never_reads() -> None:
    async with running() as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        server = server_of(shell)
        await eventually(lambda: len(server.peers) == 1)
        (peer,) = server.peers
        await deaf.send_until_stuck(flood(), lambda: peer._is_full)
        await shell.stop(0)
        await eventually(lambda: not server.peers)
        assert shell._engine.sessions == 0
        deaf.close()


# --- peers that are half there ---


@on_each_loop
async def test_a_peer_that_breaks_off() -> None:
    """Its stream is let go, whether it closes properly or not."""
    async with running() as (shell, port):
        for abrupt in (False, True):
            client = await H2Client(port).__aenter__()
            await pick(WireStream(client, PROCESS))
            assert shell._engine.in_flight == 1
            if abrupt:
                raw = client.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
            else:
                client.writer.write_eof()
            await eventually(lambda: shell._engine.in_flight == 0)
            await eventually(lambda: not server_of(shell).peers)
            await client.__aexit__()


@virtual
async def test_a_peer_that_says_nothing_is_given_up() -> None:
    loop = asyncio.get_running_loop()
    shell = WireShellUnderTest(engine())
    server = WireServer([shell.wire._extproc.methods()], clock_ns=lambda: int(loop.time() * 1e9))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await pass_time(1)
    assert len(server.peers) == 1
    await pass_time(48)
    assert len(server.peers) == 1
    await pass_time(3)
    assert not server.peers
    said = await reader.read()
    assert said[-17:-8] == frame(6, 0, 0, bytes(8))[:9]  # the last was a PING
    writer.close()
    await server.stop(0)


@virtual
async def test_deadlines_are_kept_between_reads() -> None:
    loop = asyncio.get_running_loop()
    shell = WireShellUnderTest(engine())
    server = WireServer([shell.wire._extproc.methods()], clock_ns=lambda: int(loop.time() * 1e9))
    async with H2Client(await server.start("127.0.0.1", 0)) as client:
        call = client.open(PROCESS, ("grpc-timeout", "2S"))
        await client.flush()
        started = loop.time()
        assert await call.ended() == "DEADLINE_EXCEEDED"
        assert loop.time() - started > 1.9
    await server.stop(0)


@within_deadline
async def test_plain_http_is_told_off() -> None:
    async with running() as (shell, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = await reader.read()
        assert said.endswith(b"\0\0\0\1")  # GOAWAY: PROTOCOL_ERROR
        assert server_of(shell).core.counters()["faults"] == 1
        writer.close()


# --- many at once ---


@on_each_loop
async def test_connections_share_what_they_are_read_into() -> None:
    """Twenty at a time, piece by piece."""
    async with running() as (shell, port):
        clients = [await H2Client(port).__aenter__() for _ in range(20)]
        calls = []
        for number, client in enumerate(clients):
            call = client.open(PROCESS)
            calls.append((call, b"%d," % number * 20_000))
            await call.send(BEGIN)
        await asyncio.gather(*(call.send(chunk(body), end_stream=True) for call, body in calls))
        for call, body in calls:
            await call.received()
            reply = m.parse(await call.received())
            echoed = reply.request_body.response.body_mutation.streamed_response.body
            while len(echoed) < len(body):
                reply = m.parse(await call.received())
                echoed += reply.request_body.response.body_mutation.streamed_response.body
            assert echoed == body
            assert await call.ended() == "OK"
        for client in clients:
            await client.__aexit__()
        await shell.wait_idle()


# --- quiet ---


@virtual
async def test_a_quiet_while_is_waited_for_and_new_streams_begin_it_anew() -> None:
    loop = asyncio.get_running_loop()
    made = engine()
    async with running(made) as (shell, port), H2Client(port) as client:
        await shell.wait_idle(100.0)  # there has been none at all
        stream = WireStream(client, PROCESS)
        await pick(stream)
        started = loop.time()
        quiet = loop.create_task(shell.wait_idle(1.0))
        await pass_time(3.0)
        assert not quiet.done()
        assert await stream.finish() == "OK"
        await pass_time(0.8)
        late = WireStream(client, PROCESS)
        await pick(late)
        assert not quiet.done()
        assert await late.finish() == "OK"
        await quiet
        assert 4.7 <= loop.time() - started <= 5.2
        before = loop.time()
        await shell.wait_idle(1.0)
        assert loop.time() == before  # it has been quiet long enough already


@virtual
async def test_sessions_of_others_on_the_engine_count_too() -> None:
    """The core's own, or another shell's: whoever drains waits for the engine."""
    made = engine()
    async with running(made) as (shell, _):
        session = Session(made, 0)
        quiet = asyncio.get_running_loop().create_task(shell.wait_idle())
        await pass_time(5.0)
        assert not quiet.done()
        session.close(0)
        await quiet


# --- draining and stopping ---


@on_each_loop
async def test_streams_under_way_end_in_their_own_time_while_it_stops() -> None:
    async with running() as (shell, port), H2Client(port) as client:
        stream = WireStream(client, PROCESS)
        await pick(stream)
        stopped = asyncio.ensure_future(shell.stop(20))
        await client.until(lambda: bool(client.goaways))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await stream.send(m.response_headers(), m.response_body(b"x", end_of_stream=True))
        await stream.receive(2)
        assert not stopped.done()
        assert await stream.finish() == "OK"
        await stopped
        await client.closed()
        assert shell._engine.sessions == 0


@on_each_loop
async def test_streams_are_cut_when_the_time_is_up() -> None:
    async with running() as (shell, port), H2Client(port) as client:
        stream = WireStream(client, PROCESS)
        await pick(stream)
        await shell.stop(0)
        assert await stream.ended() == "UNAVAILABLE"
        assert (shell._engine.sessions, shell._engine.in_flight) == (0, 0)


@within_deadline
async def test_stopping_what_was_never_started_is_harmless() -> None:
    server = WireServer([])
    await server.stop(0)
    await server.start("127.0.0.1", 0)
    await server.stop(0)
    await server.stop(0)
    shell = WireShell(engine(), Readiness(), ListenSettings(secure_serving=False), LimitSettings())
    await shell.stop(0)
    await shell.wait_idle()


# --- bugs ---


@on_each_loop
async def test_a_bug_is_told_to_the_client_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def host(*_: Any) -> list[float]:
        raise ZeroDivisionError("a bug")

    made = engine()
    made.set_policy([(20, 2.0, (), 0), (30, 1.0, (), 0)], plugins=host)
    async with running(made) as (shell, port), H2Client(port) as client:
        stream = WireStream(client, PROCESS)
        await stream.send(m.request_headers("/v1/completions"), m.request_body(BODY))
        (reply,) = await stream.receive()
        assert reply.immediate_response.status.code == 500
        assert await stream.ended() == "OK"
        await shell.wait_idle()
    assert [(record.name, record.levelno) for record in caplog.records] == [("picker.extproc", logging.ERROR)]
    assert "ZeroDivisionError: a bug" in caplog.text


@within_deadline
async def test_picks_are_timed_once_each() -> None:
    made = engine()
    async with running(made) as (_, port), H2Client(port) as client:
        for _ in range(3):
            stream = WireStream(client, PROCESS)
            await pick(stream)
            await stream.finish()
        refused = WireStream(client, PROCESS)
        await refused.send(m.request_headers(), m.request_body(b"{"))
        await refused.receive()
        assert await refused.ended() == "OK"
        buckets, total = made.stats()["scheduling_s"]
        assert buckets[-1][1] == 3
        assert total > 0


# --- addresses ---


def has_loopback6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("bind_address", ["", "::", "::1"])
@within_deadline
async def test_it_listens_on_ipv6_too(bind_address: str) -> None:
    if not socket.has_ipv6 or not has_loopback6():
        pytest.skip("this machine has no IPv6 loopback")
    async with running(bind_address=bind_address) as (_, port):
        for address in ("::1", "127.0.0.1") if bind_address != "::1" else ("::1",):
            async with H2Client(port, address=address) as client:
                stream = WireStream(client, PROCESS)
                await pick(stream)
                assert await stream.finish() == "OK"


def test_a_machine_without_ipv6_has_every_interface_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with wire._listen("::", 0) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize(("address", "where"), [("127.0.0.1", "127.0.0.1"), ("::1", r"\[::1\]")])
@within_deadline
async def test_a_port_that_is_taken_is_said(address: str, where: str) -> None:
    if address == "::1" and not has_loopback6():
        pytest.skip("this machine has no IPv6 loopback")
    async with running(bind_address=address) as (_, port):
        with pytest.raises(OSError, match=rf"cannot listen on {where}:{port}: is the port taken\?"):
            async with running(bind_address=address, grpc_port=port):
                raise AssertionError("it listens")


# --- health on the same port ---


@pytest.mark.parametrize("asked", [False, True])
@within_deadline
async def test_health_is_on_the_port_of_ext_proc_if_asked_to(asked: bool) -> None:
    async with running(health_checking=asked) as (_, port), H2Client(port) as client:
        call = client.open(CHECK)
        await call.send(framed(b""), end_stream=True)
        assert await call.ended() == ("OK" if asked else "UNIMPLEMENTED")


# --- TLS ---


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@needs_openssl
@on_each_loop
async def test_tls(certificate: Path) -> None:
    async with running(secure_serving=True, cert_path=str(certificate)) as (shell, port):
        async with H2Client(port, tls=client_context(certificate, "h2", "http/1.1")) as client:
            assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            stream = WireStream(client, PROCESS)
            await pick(stream)
            assert await stream.finish() == "OK"
            large = client.open(PROCESS)
            await large.send(BEGIN + b"".join(chunk(b"x" * 50_000) for _ in range(20)), end_stream=True)
            assert await large.ended() == "OK"
            assert sum(map(len, large.messages)) > 1_000_000
        await shell.wait_idle()


@needs_openssl
@within_deadline
async def test_tls_by_a_client_of_grpc(certificate: Path) -> None:
    trusted = grpc.ssl_channel_credentials((certificate / "tls.crt").read_bytes())
    named = (("grpc.ssl_target_name_override", "localhost"),)
    async with (
        running(secure_serving=True, cert_path=str(certificate)) as (_, port),
        grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=named) as channel,
    ):
        stream = GrpcStream(channel)
        await pick(stream)
        assert await stream.finish() == "OK"


@needs_openssl
@on_each_loop
async def test_who_does_not_speak_tls_or_http2_is_not_served(certificate: Path) -> None:
    async with running(secure_serving=True, cert_path=str(certificate)) as (shell, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        with contextlib.suppress(OSError):
            assert frame(SETTINGS, 1, 0) not in await reader.read()
        writer.close()
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context(), server_hostname="x")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(certificate, "http/1.1"), server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).endswith(b"\0\0\0\1")
        writer.close()
        assert shell._extproc.opened == 0


async def serial(port: int, certificate: Path) -> bytes:
    """Which certificate a new connection sees."""
    async with H2Client(port, tls=client_context(certificate, "h2")) as client:
        seen: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return seen


@needs_openssl
@within_deadline
async def test_a_certificate_that_is_renewed_is_shown_to_new_connections(certificate: Path) -> None:
    clock = 0
    tls = Certificate(str(certificate), reload=True)
    server = WireServer([], certificate=tls, clock_ns=lambda: clock)
    port = await server.start("127.0.0.1", 0)
    old = await serial(port, certificate)
    async with H2Client(port, tls=client_context(certificate, "h2")) as client:
        self_signed(certificate)
        clock += LOOK_NS
        await eventually(lambda: tls._looked_ns == clock)
        assert await serial(port, certificate) != old
        client.protocol.ping(b"12345678")  # who was here stays
        await client.flush()
        await client.until(lambda: client.pings == 1)
    await server.stop(0)


@needs_openssl
def test_a_certificate_is_not_renewed_unasked_nor_too_often(certificate: Path) -> None:
    for reload in (False, True):
        tls = Certificate(str(certificate), reload=reload)
        tls.renew(LOOK_NS)
        seen = tls._seen
        self_signed(certificate)
        tls.renew(2 * LOOK_NS - 1)
        assert tls._seen == seen
        tls.renew(2 * LOOK_NS)
        assert (tls._seen != seen) == reload


@pytest.mark.parametrize("how", ["garbage", "wrong key", "gone"])
@needs_openssl
def test_a_certificate_that_is_no_good_does_not_replace_the_old_one(
    certificate: Path, how: str, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trusted = tmp_path_factory.mktemp("trusted")
    (trusted / "tls.crt").write_bytes((certificate / "tls.crt").read_bytes())

    async def body() -> None:
        tls = Certificate(str(certificate), reload=True)
        server = WireServer([], certificate=tls)
        port = await server.start("127.0.0.1", 0)
        old = await serial(port, trusted)
        if how == "garbage":
            (certificate / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")
        elif how == "wrong key":
            (certificate / "tls.key").write_bytes(self_signed(trusted_key).joinpath("tls.key").read_bytes())
        else:
            (certificate / "tls.key").unlink()
        tls.renew(10**18)
        tls.renew(2 * 10**18)
        assert await serial(port, trusted) == old
        self_signed(certificate)
        tls.renew(3 * 10**18)
        assert await serial(port, certificate) != old
        await server.stop(0)

    trusted_key = tmp_path_factory.mktemp("other")
    caplog.set_level(logging.INFO)
    asyncio.run(asyncio.wait_for(body(), DEADLINE_S))
    said = [(record.levelno, record.getMessage()[:27]) for record in caplog.records if record.name == "picker.extproc"]
    assert said == [(logging.WARNING, "the certificate has changed"), (logging.INFO, "the certificate was renewed")]


@pytest.mark.parametrize("name", ["tls.key", "tls.crt"])
@needs_openssl
def test_a_certificate_that_is_not_there(certificate: Path, name: str) -> None:
    (certificate / name).unlink()
    with pytest.raises(FileNotFoundError):
        Certificate(str(certificate))


@needs_openssl
def test_a_certificate_that_is_no_good(certificate: Path) -> None:
    (certificate / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")
    with pytest.raises(OSError, match=r"cannot use .*tls.crt and .*tls.key"):
        Certificate(str(certificate))
