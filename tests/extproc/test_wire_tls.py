"""The production shell over TLS: who is served, which certificate is shown, and when it changes."""

import asyncio
import contextlib
import logging
import ssl
from pathlib import Path

import grpc.aio
import pytest

from picker.extproc import wire
from picker.extproc.certificate import LOOK_NS, Certificate
from picker.extproc.wire import WireServer
from tests.support.certificates import client_context, needs_openssl, self_signed
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
from tests.support.streams import DEADLINE_S, GrpcStream, WireStream, within_deadline


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


@needs_openssl
@on_each_loop
async def test_a_peer_that_never_reads_is_not_read_from_over_tls_either(certificate: Path) -> None:
    async with running(secure_serving=True, cert_path=str(certificate)) as (shell, port):
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
        assert (shell._engine.sessions, shell._engine.in_flight) == (0, 0)


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
