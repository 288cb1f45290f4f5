"""Fetches metrics pages over kept-alive connections: bounded in time and size, one reason per cause."""

import ssl
from typing import Final, Literal

import aiohttp

from picker.config.settings import ScrapeSettings
from picker.types import Endpoint

__all__ = ["REASONS", "FetchFailed", "Fetcher", "Reason"]

Reason = Literal["timeout", "connect", "http", "http_status", "too_large", "no_series", "internal"]
REASONS: Final[tuple[Reason, ...]] = ("timeout", "connect", "http", "http_status", "too_large", "no_series", "internal")
"""Why a scrape failed: no answer in time; no connection; not HTTP, or cut off; a status other than 200; a page over the
cap; a page without the engine's series; a bug of ours."""

# Plain text, not OpenMetrics: that is what the scanner reads. No compression: it would cost the engine CPU time.
_HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity", "User-Agent": "picker"}
_KEEPALIVE_S = 30.0  # longer than any pause between two scrapes of an endpoint


class FetchFailed(Exception):
    """No page; `reason` is one of `REASONS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Fetcher:
    """An HTTP client for metrics pages. Made on a running loop; raises OSError if a certificate cannot be read."""

    def __init__(self, settings: ScrapeSettings) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=_tls(settings), use_dns_cache=False
            ),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    def url(self, endpoint: Endpoint) -> str:
        """Where the endpoint's page is."""
        settings = self._settings
        port = settings.port or endpoint.port
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        return f"{settings.scheme}://{host}:{port}{settings.path}"

    async def page(self, url: str) -> bytes:
        """The page at `url`. Raises FetchFailed; cancelling drops the connection."""
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise FetchFailed("http_status")
                return await self._body(response)
        except TimeoutError as error:
            raise FetchFailed("timeout") from error
        except aiohttp.ClientConnectorError as error:
            raise FetchFailed("connect") from error
        except (aiohttp.ClientError, OSError) as error:
            raise FetchFailed("http") from error

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Leaving early drops the connection, as the rest of the page is still to come on it."""
        parts: list[bytes] = []
        size = 0
        too_large = (response.content_length or 0) > self._settings.page_bytes_max
        while not too_large and (part := await response.content.readany()):
            parts.append(part)
            size += len(part)
            too_large = size > self._settings.page_bytes_max
        if too_large:
            raise FetchFailed("too_large")
        return b"".join(parts)


def _tls(settings: ScrapeSettings) -> ssl.SSLContext | bool:
    if settings.scheme != "https":
        return True
    context = ssl.create_default_context(cafile=settings.ca_cert_path or None)
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert_path:
        context.load_cert_chain(settings.client_cert_path, settings.client_key_path or None)
    return context
