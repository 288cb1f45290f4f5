"""What the production shell does by itself: half-open peers, draining, ports, bugs. Peers that do not read, and TLS:
test_wire_stalls.py, test_wire_tls.py."""

import asyncio
import logging
import socket
import struct
from typing import Any

import pytest

from picker._core.session import Session
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc import wire
from picker.extproc.readiness import Readiness
from picker.extproc.wire import WireServer, WireShell
from tests.support import messages as m
from tests.support.h2client import H2Client, framed
from tests.support.h2memory import frame
from tests.support.h2service import BEGIN, CHECK, PROCESS, chunk
from tests.support.sockets import (
    BODY,
    eventually,
    on_each_loop,
    pick,
    running,
    server_of,
)
from tests.support.streams import WireShellUnderTest, WireStream, engine, within_deadline
from tests.support.virtual_time import pass_time, virtual

# --- peers that are half there ---


@on_each_loop
async def test_a_peer_that_breaks_off() -> None:
    """Its stream is let go, whether it closes properly or not."""
    async with running(made := engine()) as (shell, port):
        for abrupt in (False, True):
            client = await H2Client(port).__aenter__()
            await pick(WireStream(client, PROCESS))
            assert made.in_flight == 1
            if abrupt:
                raw = client.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
            else:
                client.writer.write_eof()
            await eventually(lambda: made.in_flight == 0)
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
    async with running(made := engine()) as (shell, port), H2Client(port) as client:
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
        assert made.sessions == 0


@on_each_loop
async def test_streams_are_cut_when_the_time_is_up() -> None:
    async with running(made := engine()) as (shell, port), H2Client(port) as client:
        stream = WireStream(client, PROCESS)
        await pick(stream)
        await shell.stop(0)
        assert await stream.ended() == "UNAVAILABLE"
        assert (made.sessions, made.in_flight) == (0, 0)


@within_deadline
async def test_stopping_what_was_never_started_is_harmless() -> None:
    server = WireServer([])
    await server.stop(0)
    await server.start("127.0.0.1", 0)
    await server.stop(0)
    await server.stop(0)
    shell = WireShell(Readiness(), ListenSettings(secure_serving=False), LimitSettings())
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
