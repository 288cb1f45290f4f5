"""TLS on each shell: who is served, which certificate is shown, and what is taken over while it runs."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc import certificate as module
from picker.extproc.readiness import Readiness
from picker.extproc.shell import make_shell
from tests.support.certificates import Authority, client_context, self_signed
from tests.support.h2client import H2Client
from tests.support.h2service import PROCESS
from tests.support.sockets import pick
from tests.support.streams import GrpcStream, WireStream, engine, within_deadline

SHELLS = ("wire", "grpcio")
on_each_shell = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at whenever there is an occasion."""
    monkeypatch.setattr(module, "LOOK_NS", 0)


@contextlib.asynccontextmanager
async def serving(shell: str, directory: Path | str = "", **options: Any) -> AsyncIterator[int]:
    """The port of a shell that serves ext_proc over TLS."""
    sizes = {"grpc_max_recv_msg_bytes": 4 << 20, "grpc_max_send_msg_bytes": 4 << 20}
    listen = ListenSettings(
        shell=shell, bind_address="127.0.0.1", grpc_port=0, cert_path=str(directory), **sizes, **options
    )
    running = make_shell(Readiness(), listen, LimitSettings())
    running.set_pools([(engine(), (), "")])
    try:
        yield await running.start_extproc()
        await running.wait_idle()
    finally:
        await running.stop(0)


async def served(port: int, tls: ssl.SSLContext) -> Any:
    """A pick over a new connection; its TLS."""
    async with H2Client(port, tls=tls) as client:
        stream = WireStream(client, PROCESS)
        await pick(stream)
        assert await stream.finish() == "OK"
        seen = client.writer.get_extra_info("ssl_object")
        client.writer.transport.abort()  # grpcio never answers who takes leave
        return seen


async def refused(port: int, tls: ssl.SSLContext) -> None:
    """A new connection gets nowhere. With TLS 1.3 the client only hears of it when it reads."""
    with pytest.raises((OSError, AssertionError)) as caught:
        await served(port, tls)
    assert isinstance(caught.value, OSError) or "the connection was closed" in str(caught.value)


async def until(condition: Callable[[], Any]) -> None:
    while not await condition():  # noqa: ASYNC110  files and connections set no events
        await asyncio.sleep(0.01)


@on_each_shell
@within_deadline
async def test_by_a_client_of_grpc(shell: str, certificate: Path) -> None:
    trusted = grpc.ssl_channel_credentials((certificate / "tls.crt").read_bytes())
    named = (("grpc.ssl_target_name_override", "localhost"),)
    async with (
        serving(shell, certificate) as port,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted, options=named) as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain,
    ):
        stream = GrpcStream(channel)
        await pick(stream)
        assert await stream.finish() == "OK"
        assert await GrpcStream(plain).ended() == "UNAVAILABLE"


@on_each_shell
@within_deadline
async def test_without_a_certificate_it_signs_its_own(shell: str) -> None:
    """Gateways take it without checking; this client trusts what it is shown, and checks all else of it."""
    async with serving(shell) as port:
        loop = asyncio.get_running_loop()
        shown = await loop.run_in_executor(None, ssl.get_server_certificate, ("127.0.0.1", port))
        tls = ssl.create_default_context(cadata=shown)
        tls.set_alpn_protocols(["h2"])
        seen = await served(port, tls)
        assert seen.selected_alpn_protocol() == "h2"
        found = x509.load_pem_x509_certificate(shown.encode())
    assert found.subject.rfc4514_string() == found.issuer.rfc4514_string() == "O=picker"
    lifetime = found.not_valid_after_utc - found.not_valid_before_utc
    assert 3650 < lifetime.days < 3660
    async with serving(shell) as port:
        assert shown != await loop.run_in_executor(None, ssl.get_server_certificate, ("127.0.0.1", port))


@on_each_shell
@within_deadline
async def test_a_certificate_that_is_renewed_is_shown_to_new_connections(
    shell: str, certificate: Path, looks_at_once: None
) -> None:
    async with serving(shell, certificate, enable_cert_reload=True) as port:
        old = client_context(certificate, "h2")
        async with H2Client(port, tls=old) as client:
            first = WireStream(client, PROCESS)
            await pick(first)
            self_signed(certificate)
            new = client_context(certificate, "h2")

            async def is_renewed() -> bool:
                try:
                    await served(port, new)
                except ssl.SSLCertVerificationError:
                    return False
                return True

            await until(is_renewed)
            assert await first.finish() == "OK"  # who was here stays
            again = WireStream(client, PROCESS)
            await pick(again)
            assert await again.finish() == "OK"
            client.writer.transport.abort()
        with pytest.raises(ssl.SSLCertVerificationError):
            await served(port, old)


# --- certificates of clients ---


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """A client's certificate in `mine/`, of the authority in `ca.pem`; one of another authority in `other/`."""
    mine, other = Authority.named("mine"), Authority.named("other")
    for name, authority in (("mine", mine), ("other", other)):
        (tmp_path / name).mkdir()
        authority.issue(tmp_path / name, "DNS:client")
    (tmp_path / "ca.pem").write_bytes(mine.pem)
    (tmp_path / "other-ca.pem").write_bytes(other.pem)
    return tmp_path


@on_each_shell
@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@within_deadline
async def test_only_clients_of_the_authority_are_served(
    shell: str, certificate: Path, clients: Path, highest: ssl.TLSVersion
) -> None:
    def showing(name: str | None) -> ssl.SSLContext:
        return client_context(certificate, "h2", shows=clients / name if name else None, highest=highest)

    async with serving(shell, certificate, client_ca_file=str(clients / "ca.pem")) as port:
        seen = await served(port, showing("mine"))
        assert seen.version() == highest.name.replace("_", ".")
        await refused(port, showing("other"))
        await refused(port, showing(None))
        await served(port, showing("mine"))


@on_each_shell
@within_deadline
async def test_clients_of_an_authority_that_is_replaced_are_served_no_more(
    shell: str, certificate: Path, clients: Path, looks_at_once: None
) -> None:
    given = {"client_ca_file": str(clients / "ca.pem"), "enable_cert_reload": True}
    mine, other = (client_context(certificate, "h2", shows=clients / name) for name in ("mine", "other"))
    async with serving(shell, certificate, **given) as port:
        await served(port, mine)
        await refused(port, other)
        (clients / "other-ca.pem").replace(clients / "ca.pem")

        async def is_served() -> bool:
            try:
                await served(port, other)
            except (OSError, AssertionError):
                return False
            return True

        await until(is_served)
        await refused(port, mine)


# --- versions and suites, which grpcio chooses by itself ---


@within_deadline
async def test_the_lowest_version(certificate: Path) -> None:
    old = client_context(certificate, "h2", highest=ssl.TLSVersion.TLSv1_2)
    async with serving("wire", certificate) as port:
        assert (await served(port, old)).version() == "TLSv1.2"
    async with serving("wire", certificate, tls_min_version="VersionTLS13") as port:
        await refused(port, old)
        assert (await served(port, client_context(certificate, "h2"))).version() == "TLSv1.3"


@within_deadline
async def test_the_suites(certificate: Path) -> None:
    def offering(suite: str) -> ssl.SSLContext:
        context = client_context(certificate, "h2", highest=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(suite)
        return context

    suites = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    async with serving("wire", certificate, tls_cipher_suites=suites) as port:
        for allowed in ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384"):
            assert (await served(port, offering(allowed))).cipher()[0] == allowed
        await refused(port, offering("ECDHE-ECDSA-AES128-GCM-SHA256"))
