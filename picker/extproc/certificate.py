"""The certificate that a gateway sees, and its renewal while picker runs."""

import logging
import ssl
from pathlib import Path

__all__ = ["Certificate"]

_LOG = logging.getLogger("picker.extproc")

LOOK_NS = 1_000_000_000
"""Time between two looks at the files."""


class Certificate:
    """TLS from `tls.crt` and `tls.key` in a directory, for HTTP/2 only. Raises OSError if they cannot be used.

    With `reload`, files that change are taken for connections made from then on; files that are no good are not, and
    what was good before stays.
    """

    def __init__(self, directory: str, *, reload: bool = False) -> None:
        self._files = Path(directory, "tls.crt"), Path(directory, "tls.key")
        self._reload = reload
        self._looked_ns = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["h2"])
        self._load()
        self._seen = self._stamps()

    def renew(self, now_ns: int) -> None:
        """Take what has changed; looks at the files once a second."""
        if not self._reload or now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._load()
        except OSError as problem:
            _LOG.warning("the certificate has changed and is no good: the old one stays: %s", problem)
        else:
            _LOG.info("the certificate was renewed")

    def _load(self) -> None:
        """Try it out first: a context whose key does not fit its certificate would refuse every client."""
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
            try:
                context.load_cert_chain(*self._files)
            except ssl.SSLError as problem:
                certificate, key = self._files
                raise OSError(f"cannot use {certificate} and {key}: {problem}") from problem

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        """Which files lie there; none while they are being replaced."""
        try:
            return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files))
        except OSError:
            return ()
