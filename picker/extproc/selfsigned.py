"""A certificate for picker itself, made where none is given; as gateways take the reference picker's, unverified."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["VALID_YEARS", "self_signed"]

VALID_YEARS = 10
_SKEW = datetime.timedelta(hours=1)
"""Clocks of gateways may be behind."""


def self_signed(now: datetime.datetime) -> tuple[bytes, bytes]:
    """A fresh certificate and its key, both PEM; of organisation `picker`, from a little before `now` for ten years.

    ECDSA on P-256, where the reference picker takes RSA-4096: every client of TLS 1.2 and 1.3 knows it (RFC 8446, 9.1
    makes it mandatory), it is made in less than a millisecond instead of seconds, and each handshake signs some fifty
    times faster. The key leaves this process for nowhere: it is never written to a disk, and a restart makes another.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "picker")])
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=365 * VALID_YEARS + 2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return made.public_bytes(serialization.Encoding.PEM), secret
