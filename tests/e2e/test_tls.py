"""TLS between a real Envoy and picker, as behind most gateways: bodies whole, and a certificate renewed under way."""

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from picker.demo.envoy import Gateway
from tests.e2e.stack import SHELLS, Stack, running
from tests.e2e.test_gateway import KIB, MIB, chat, post
from tests.support.certificates import self_signed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stack(shell: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = ["--secure-serving=true", f"--cert-path={certificate}", "--enable-cert-reload"]
    directory = tmp_path_factory.mktemp("tls")
    with running(directory, shell=shell, flags=flags, gateway=Gateway(tls=True)) as made:
        yield made


@pytest.mark.parametrize("size", [KIB, 400 * KIB, 5 * MIB], ids=["1KB", "400KB", "5MB"])
def test_bodies_arrive_whole(stack: Stack, size: int) -> None:
    body = chat(size, stream=True, max_tokens=50)
    status, headers, answer = post(f"{stack.url}/v1/chat/completions", body)
    assert (status, headers["x-body-sha256"]) == (200, hashlib.sha256(body).hexdigest())
    assert answer.endswith(b"data: [DONE]\n\n")


def served_certificate(stack: Stack) -> str:
    """What a client is shown that connects now."""
    return ssl.get_server_certificate(("127.0.0.1", stack.ports[0]))


def test_a_certificate_is_renewed_without_a_break(stack: Stack, certificate: Path) -> None:
    before = served_certificate(stack)
    self_signed(certificate)
    stack.wait_until(lambda: served_certificate(stack) != before)
    assert post(f"{stack.url}/v1/chat/completions", chat(KIB))[0] == 200
    stats = stack.ext_proc_stats()
    assert (stats["streams_failed"], stats["spurious_msgs_received"]) == (0, 0)


def test_without_a_certificate_it_signs_its_own(shell: str, tmp_path: Path) -> None:
    """As the manifests of the reference picker start it: no TLS flag at all."""
    with running(tmp_path, shell=shell, servers=1, flags=["--secure-serving"], gateway=Gateway(tls=True)) as stack:
        body = chat(KIB)
        status, headers, _ = post(f"{stack.url}/v1/chat/completions", body)
        assert (status, headers["x-body-sha256"]) == (200, hashlib.sha256(body).hexdigest())
        assert served_certificate(stack) != ""
        stats = stack.ext_proc_stats()
        assert (stats["streams_failed"], stats["spurious_msgs_received"]) == (0, 0)
