"""Certificates made on the spot, and who trusts them."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "client_context", "self_signed"]

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate that may issue others, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def named(cls, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_sign(_name(name), key, None, key, []), key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, directory: Path, name: str = "DNS:localhost") -> Path:
        """Writes `tls.crt` and `tls.key` of a certificate issued to `name`. Returns the directory."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _write(directory, _sign(_name(name), key, self.certificate, self.key, [name]), key)


def self_signed(directory: Path, name: str = "DNS:localhost") -> Path:
    """Writes `tls.crt`, which vouches for itself and for `name`, and `tls.key`. Returns the directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _write(directory, _sign(_name(name), key, None, key, [name]), key)


def client_context(
    certificate: Path, *protocols: str, shows: Path | None = None, highest: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Trusts that one alone, and offers these protocols; `shows` holds the certificate it shows of itself."""
    context = ssl.create_default_context(cafile=str(certificate / "tls.crt"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if shows:
        context.load_cert_chain(shows / "tls.crt", shows / "tls.key")
    if highest:
        context.maximum_version = highest
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    by: ec.EllipticCurvePrivateKey,
    names: list[str],
) -> x509.Certificate:
    """For one day; without an issuer it signs itself, and may issue others."""
    now = datetime.datetime.now(datetime.UTC)
    of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    built = (
        x509.CertificateBuilder(issuer.subject if issuer else subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(of_issuer, critical=False)
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return built.sign(by, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    kind, _, value = name.partition(":")
    return x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ipaddress.ip_address(value))


def _write(directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(secret)
    return directory
