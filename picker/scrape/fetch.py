"""Fetches metrics pages over kept-alive connections: bounded in size, one reason per cause."""

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import quote

from picker.config.settings import ScrapeSettings
from picker.scrape.connection import Connection, Outcome
from picker.scrape.response import ResponseReader
from picker.types import Endpoint

__all__ = ["Fetcher", "Outcome", "PageSource", "tls_context"]

RECEIVE_BYTES = 256 << 10
"""A page of the usual size comes in one read."""

# Plain text, not OpenMetrics: that is what the scanner reads. No compression: it would cost the engine CPU time.
_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: picker\r\n"
    "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: identity\r\n\r\n"
)
_KEPT_IN_PATHS = "/?&=%:@!$'()*+,;~"


class Fetcher:
    """Makes connections. To be made on a running loop; raises OSError if a certificate cannot be read."""

    def __init__(self, settings: ScrapeSettings) -> None:
        self.settings = settings
        self._tls = tls_context(settings)
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._connections: dict[asyncio.Task[None], Connection] = {}

    def source(self, endpoint: Endpoint) -> "PageSource":
        """The endpoint's page, not yet asked for."""
        return PageSource(self, endpoint.address, self.settings.port or endpoint.port)

    def connect(self, source: "PageSource") -> Connection:
        """A connection for that source, being made."""
        connection = Connection(source, ResponseReader(self.settings.page_bytes_max), self._buffer)
        task = connection.open(source.host, source.port, self._tls)
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)
        return connection

    async def close(self) -> None:
        """Drops all connections, and waits until they are gone."""
        for connection in self._connections.values():
            connection.drop()
        await asyncio.gather(*self._connections, return_exceptions=True)


class PageSource:
    """One page, and the connection kept for it."""

    def __init__(self, fetcher: Fetcher, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.request = _request(host, port, fetcher.settings.path)
        self._fetcher = fetcher
        self._connection: Connection | None = None
        self._done: Callable[[Outcome], None] | None = None

    def fetch(self, done: Callable[[Outcome], None]) -> None:
        """Calls `done` once, later, with the page or why there is none, unless closed before: no timeout here.

        Raises RuntimeError while a fetch is in progress.
        """
        if self._done is not None:
            raise RuntimeError("one fetch at a time")
        self._done = done
        if self._connection is not None and self._connection.is_usable:
            self._connection.ask(self.request)
        else:
            self._connection = self._fetcher.connect(self)

    def close(self) -> None:
        """Drops the connection, and a fetch in progress: its `done` is not called. It may be used again."""
        self._done = None
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def connected(self, connection: Connection) -> None:
        connection.ask(self.request)

    def answered(self, connection: Connection, outcome: Outcome) -> None:
        """A server may close a kept connection just when the next request is on its way: that one is sent again."""
        if connection.is_stale:
            self._connection = self._fetcher.connect(self)
            return
        if isinstance(outcome, str):
            self._connection = None
        done, self._done = self._done, None
        if done is not None:
            done(outcome)


def _request(host: str, port: int, path: str) -> bytes:
    host = f"[{host}]" if ":" in host else host
    path = "/" + quote(path.removeprefix("/"), safe=_KEPT_IN_PATHS)
    return _REQUEST.format(path=path, host=host, port=port).encode()


def tls_context(settings: ScrapeSettings) -> ssl.SSLContext | None:
    """How servers are checked and what they are shown; None without TLS. OSError if a certificate cannot be read."""
    if settings.scheme != "https":
        return None
    context = ssl.create_default_context(cafile=settings.ca_cert_path or None)
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert_path:
        context.load_cert_chain(settings.client_cert_path, settings.client_key_path or None)
    return context
