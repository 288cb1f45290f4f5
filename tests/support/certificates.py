"""Certificates made on the spot, and who trusts them."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

__all__ = ["client_context", "needs_openssl", "self_signed"]

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes certificates with `openssl`: install it"
)


def self_signed(directory: Path, names: str = "DNS:localhost") -> Path:
    """Writes `tls.crt`, which vouches for itself and for `names`, and `tls.key`. Returns the directory."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subject = ("-subj", "/CN=localhost", "-addext", f"subjectAltName={names}", "-days", "2")
    files = ("-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt"))
    subprocess.run(["openssl", "req", "-x509", *key, *subject, *files], check=True, capture_output=True)
    return directory


def client_context(certificate: Path, *protocols: str) -> ssl.SSLContext:
    """Trusts that one alone, and offers these protocols."""
    context = ssl.create_default_context(cafile=str(certificate / "tls.crt"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
