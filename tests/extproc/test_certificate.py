"""The certificate by itself: when its files are looked at, and what is said of those that are no good."""

import logging
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from picker.config.settings import ListenSettings
from picker.extproc.certificate import LOOK_NS, Certificate, certificate_of
from tests.support.certificates import Authority, client_context, self_signed

GARBAGE = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


def test_plaintext_needs_none() -> None:
    assert certificate_of(ListenSettings(secure_serving=False)) is None


def test_one_that_is_made_here_lies_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.chdir(tmp_path)
    made = certificate_of(ListenSettings())
    assert made is not None
    assert made.pem.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert (list(tmp_path.iterdir()), made.renew(LOOK_NS)) == ([], False)


@pytest.mark.parametrize("reload", [False, True])
def test_it_is_not_renewed_unasked_nor_too_often(certificate: Path, reload: bool) -> None:
    tls = Certificate(str(certificate), reload=reload)
    assert not tls.renew(LOOK_NS)
    old = tls.pem
    self_signed(certificate)
    assert (tls.renew(2 * LOOK_NS - 1), tls.pem == old) == (False, True)
    assert (tls.renew(2 * LOOK_NS), tls.pem == old) == (reload, not reload)


def test_a_new_authority_is_taken_too(tmp_path: Path) -> None:
    """Beside a certificate that is made here, which stays the same."""
    file = tmp_path / "ca.pem"
    file.write_bytes(Authority.named("a").pem)
    tls = Certificate(client_ca=str(file), reload=True)
    old = tls.pem
    file.write_bytes(Authority.named("b").pem)
    assert tls.renew(LOOK_NS)
    assert (tls.pem[:2] == old[:2], tls.pem.clients == old.clients) == (True, False)


@pytest.mark.parametrize("how", ["garbage", "wrong key", "gone", "authority"])
def test_what_is_no_good_does_not_replace_the_old(
    certificate: Path, how: str, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    authority = other / "ca.pem"
    authority.write_bytes(Authority.named("a").pem)
    tls = Certificate(str(certificate), client_ca=str(authority), reload=True)
    old = tls.pem, tls.context.current
    if how == "garbage":
        (certificate / "tls.crt").write_text(GARBAGE)
    elif how == "wrong key":
        (certificate / "tls.key").write_bytes((self_signed(other) / "tls.key").read_bytes())
    elif how == "authority":
        authority.write_text(GARBAGE)
    else:
        (certificate / "tls.key").unlink()
    caplog.set_level(logging.INFO)
    assert not tls.renew(LOOK_NS)
    assert not tls.renew(2 * LOOK_NS)
    assert (tls.pem, tls.context.current) == old
    self_signed(certificate)
    authority.write_bytes(Authority.named("b").pem)
    assert tls.renew(3 * LOOK_NS)
    assert tls.pem != old[0]
    said = [(record.levelno, record.getMessage()[:27]) for record in caplog.records if record.name == "picker.extproc"]
    assert said == [(logging.WARNING, "the certificate has changed"), (logging.INFO, "the certificate was renewed")]


@pytest.mark.parametrize("name", ["tls.key", "tls.crt"])
def test_one_that_is_not_there(certificate: Path, name: str) -> None:
    (certificate / name).unlink()
    wanted = rf"cannot read .*{name}: No such file or directory; check --cert-path"
    with pytest.raises(OSError, match=wanted):
        Certificate(str(certificate))


def test_one_that_is_no_good(certificate: Path) -> None:
    (certificate / "tls.crt").write_text(GARBAGE)
    with pytest.raises(OSError, match=r"cannot use .*tls.crt and .*tls.key: .*; they must hold a PEM certificate"):
        Certificate(str(certificate))


def test_a_key_with_a_password(certificate: Path) -> None:
    """Nobody is asked for it."""
    file = certificate / "tls.key"
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, locked)
    )
    with pytest.raises(OSError, match=r"tls.key: the key is encrypted; .* without a password"):
        Certificate(str(certificate))


@pytest.mark.parametrize("content", ["", "nonsense", GARBAGE, "ü"])
def test_authorities_that_are_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(content)
    with pytest.raises(OSError, match=r"cannot use .*ca.pem: .*; it must hold the PEM certificates of authorities"):
        Certificate(client_ca=str(file))
    with pytest.raises(OSError, match=r"cannot read .*/gone: .*--client-ca-file"):
        Certificate(client_ca=str(tmp_path / "gone"))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """The client's end of a connection in memory. Raises ssl.SSLError if either refuses."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    there = server.wrap_bio(up, down, server_side=True)
    todo = [here, there]
    while todo:
        for end in tuple(todo):
            try:
                end.do_handshake()
                todo.remove(end)
            except ssl.SSLWantReadError:
                pass
    there.write(b"x")  # with TLS 1.3 the session comes after the handshake
    assert here.read(1) == b"x"
    return here


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_outlives_no_authority(certificate: Path, highest: ssl.TLSVersion) -> None:
    """Who resumes one is not asked for a certificate again, so that it must not work once the authority is gone."""
    mine, other = Authority.named("mine"), Authority.named("other")
    (certificate / "client").mkdir()
    shows = mine.issue(certificate / "client")
    file = certificate / "ca.pem"
    file.write_bytes(mine.pem)
    tls = Certificate(str(certificate), client_ca=str(file), reload=True)
    client = client_context(certificate, shows=shows, highest=highest)
    session = handshake(tls.context, client).session
    assert handshake(tls.context, client, session).session_reused
    file.write_bytes(other.pem)
    assert tls.renew(LOOK_NS)
    with pytest.raises(ssl.SSLError):
        handshake(tls.context, client, session)
