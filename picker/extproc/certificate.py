"""What the ext_proc port shows of itself and asks of its clients, and its renewal while picker runs."""

import datetime
import logging
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from picker.config.settings import ListenSettings
from picker.config.tls import cipher_list, lowest_version

__all__ = ["Certificate", "Pem", "certificate_of"]

_LOG = logging.getLogger("picker.extproc")

LOOK_NS = 1_000_000_000
"""Time between two looks at the files."""


class Pem(NamedTuple):
    """A chain, its key, and the authorities whose clients are let in (empty: any client); PEM each."""

    chain: bytes
    key: bytes
    clients: bytes = b""


class _Renewable(ssl.SSLContext):
    """Hands each new connection to the `current` context.

    A context cannot be emptied: one that takes another authority besides would go on trusting the old one, and take
    back who resumes a session. So what has changed gets a context of its own.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*given, **named)


class Certificate:
    """TLS for HTTP/2 only, or for other `protocols`. Raises OSError, saying what to do, if what it is given is no good.

    `directory` holds `tls.crt` and `tls.key`; empty: a certificate made on the spot, signed by itself. `client_ca` is
    a file of authorities: a client must then show a certificate of one of them. `min_version`, `ciphers`: as
    `picker.config.tls` reads them. With `reload`, files that change are taken for connections made from then on; files
    that are no good are not, and what was good before stays.
    """

    def __init__(
        self,
        directory: str = "",
        *,
        client_ca: str = "",
        reload: bool = False,
        min_version: str = "",
        ciphers: str = "",
        protocols: Sequence[str] = ("h2",),
    ) -> None:
        self._protocols = list(protocols)
        names = ("tls.crt", "tls.key") if directory else ()
        self._pair = tuple(Path(directory, name) for name in names)
        self._client_ca = Path(client_ca) if client_ca else None
        self._reload = reload
        self._lowest = lowest_version(min_version)
        self._ciphers = cipher_list(ciphers, self._lowest)
        self._looked_ns = 0
        self._made: tuple[bytes, ...] = () if self._pair else _self_signed()
        self.context = _Renewable(ssl.PROTOCOL_TLS_SERVER)
        """For an asyncio server."""
        self._load()
        self._seen = self._stamps()

    def renew(self, now_ns: int) -> bool:
        """Take what has changed, and say whether something has; looks at the files once a second."""
        if not self._reload or now_ns - self._looked_ns < LOOK_NS:
            return False
        self._looked_ns = now_ns
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            self._load()
        except OSError as problem:
            _LOG.warning("the certificate has changed and is no good: the old one stays: %s", problem)
            return False
        _LOG.info("the certificate was renewed")
        return True

    def _load(self) -> None:
        """All or nothing: what the files say, as read once."""
        chain, key = map(_read, self._pair) if self._pair else self._made
        pem = Pem(chain, key, _read(self._client_ca))
        self.context.current = self._context(pem)
        self.pem = pem

    def _context(self, pem: Pem) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._lowest
        context.set_alpn_protocols(self._protocols)
        if self._ciphers:
            context.set_ciphers(self._ciphers)
        try:
            _load_chain(context, pem)
        except (ssl.SSLError, ValueError) as problem:
            names = " and ".join(map(str, self._pair)) or "the certificate made here"
            wanted = "they must hold a PEM certificate chain and its key, without a password"
            raise OSError(f"cannot use {names}: {problem}; {wanted}") from problem
        if self._client_ca:
            _ask_clients(context, pem.clients, self._client_ca)
        return context

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        """Which files lie there; none while they are being replaced."""
        files = (*self._pair, *([self._client_ca] if self._client_ca else []))
        try:
            return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files))
        except OSError:
            return ()


def certificate_of(listen: ListenSettings) -> Certificate | None:
    """What the ext_proc port needs; None: it speaks plaintext. Raises OSError."""
    if not listen.secure_serving:
        return None
    return Certificate(
        listen.cert_path,
        client_ca=listen.client_ca_file,
        reload=listen.enable_cert_reload,
        min_version=listen.tls_min_version,
        ciphers=listen.tls_cipher_suites,
    )


def _self_signed() -> tuple[bytes, bytes]:
    from picker.extproc.selfsigned import self_signed  # here: who brings a certificate needs none of it

    return self_signed(datetime.datetime.now(datetime.UTC))


def _read(file: Path | None) -> bytes:
    """Its bytes; none if there is no such setting. Raises OSError naming it."""
    if file is None:
        return b""
    try:
        return file.read_bytes()
    except OSError as problem:
        hint = (
            "check --cert-path or --metrics-cert-dir (it must hold tls.crt and tls.key), "
            "--client-ca-file or --metrics-client-ca-file, and the files' permissions"
        )
        raise OSError(f"cannot read {file}: {problem.strerror}; {hint}") from problem


def _load_chain(context: ssl.SSLContext, pem: Pem) -> None:
    """OpenSSL reads files only; this one is in memory, so that a key never lies on a disk picker wrote to."""
    memory = os.memfd_create("picker-tls")
    with open(memory, "wb") as file:
        file.write(pem.chain + b"\n" + pem.key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=_no_password)


def _no_password() -> str:
    """Asked for by a key that is encrypted; without this OpenSSL would ask whoever sits at the terminal."""
    raise ValueError("the key is encrypted")


def _ask_clients(context: ssl.SSLContext, authorities: bytes, file: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as problem:
        raise OSError(f"cannot use {file}: {problem}; it must hold the PEM certificates of authorities") from problem
