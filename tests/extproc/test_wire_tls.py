"""The production shell over TLS, beside what holds for each shell (test_tls.py)."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from picker.extproc import wire
from tests.support.certificates import client_context, self_signed
from tests.support.h2client import H2Client
from tests.support.h2memory import PREFACE, SETTINGS, frame
from tests.support.h2service import BEGIN, PROCESS, chunk
from tests.support.sockets import (
    OPENING,
    eventually,
    flood,
    on_each_loop,
    pick,
    running,
    server_of,
)
from tests.support.streams import WireStream, engine


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


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


@on_each_loop
async def test_a_peer_that_never_reads_is_not_read_from_over_tls_either(certificate: Path) -> None:
    async with running(made := engine(), secure_serving=True, cert_path=str(certificate)) as (shell, port):
        tls = client_context(certificate, "h2")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost", limit=1024)
        writer.write(OPENING + flood() * 2)  # the second half is out of order, and never looked at
        await eventually(lambda: any(peer._is_full for peer in server_of(shell).peers))
        (peer,) = server_of(shell).peers
        assert peer._transport.get_write_buffer_size() < wire.WRITE_BUFFER_BYTES + (1 << 20)
        assert peer.connection.pending < 1 << 20
        async with H2Client(port, tls=tls) as other:
            stream = WireStream(other, PROCESS)
            await pick(stream)
            assert await stream.finish() == "OK"
        assert peer._is_full
        writer.transport.abort()
        await eventually(lambda: not server_of(shell).peers)
        assert (made.sessions, made.in_flight) == (0, 0)
