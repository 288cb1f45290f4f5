"""Reads the responses on one connection, fed in pieces of any size: no I/O, bounded, one reason per cause.

The grammar is llhttp's, by way of `httptools`. It has no word for the end of the connection, which is where a page
without a length ends (RFC 9112, 6.3), so that is decided here.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from picker.scrape.failures import FetchFailed, Reason

__all__ = ["ResponseReader"]

HEAD_BYTES_MAX = 64 << 10
FRAMING_PER_BYTE = 8
"""The head may have `HEAD_BYTES_MAX`, and each byte of the page so many for chunk sizes: one of one byte takes five."""

_LENGTHS = (b"content-length", b"transfer-encoding")


class ResponseReader:
    """Between `begin` and the end of a response, `feed` what comes; then `take` the page, of `page_bytes_max` at most.

    `has_begun`: something came. `is_reusable`: the page is complete, and another answer can come behind it.
    """

    def __init__(self, page_bytes_max: int) -> None:
        self._page_bytes_max = page_bytes_max
        self._parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Before each response. Only after a whole one that leaves the connection `is_reusable`."""
        self._page: bytes | bytearray = b""
        self._is_complete = False
        self.is_reusable = False
        self.has_begun = False
        self._received = 0
        self._failure: Reason | None = None
        self._forget_head()

    def take(self) -> bytes | bytearray:
        """The page, complete; the reader keeps nothing of it."""
        page, self._page = self._page, b""
        return page

    def close(self) -> None:
        """Ends the reader, and the cycle of references between it and its parser."""
        del self._parser

    def feed(self, data: memoryview) -> bool:
        """Whether the page is complete now. Raises FetchFailed, after which nothing more may be fed."""
        self.has_begun = True
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.is_reusable = False
            if not self._is_complete:
                raise FetchFailed(self._failure or "http") from error
        if self._failure is None and self._received > HEAD_BYTES_MAX + (1 + FRAMING_PER_BYTE) * len(self._page):
            self._failure = "http"
        if self._failure is not None and not self._is_complete:
            raise FetchFailed(self._failure)
        return self._is_complete

    def end(self) -> None:
        """The server has closed the connection in order. Raises FetchFailed unless that completes the page."""
        if not self._has_head or self._has_length:
            raise FetchFailed("http")
        self._is_complete = True

    # What the parser calls. It may go on to a next response in the same piece: no concern of this page's.

    def on_message_begin(self) -> None:
        if self._is_complete:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in _LENGTHS and not self._is_complete:
            self._has_length = True
            self._is_too_large |= lower == b"content-length" and int(value) > self._page_bytes_max

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._is_complete or self._failure is not None:
            return
        self._is_interim = 100 <= status < 200 and status != 101
        self._has_head = not self._is_interim
        if self._has_head and status != 200:
            self._failure = "http_status"
        elif self._has_head and self._is_too_large:
            self._failure = "too_large"

    def on_body(self, data: bytes) -> None:
        if self._is_complete or self._failure is not None:
            return
        if not self._page:
            self._page = data  # the usual case: the whole page, without another copy
        else:
            self._page = bytearray(self._page) if isinstance(self._page, bytes) else self._page
            self._page += data
        if len(self._page) > self._page_bytes_max:
            self._failure = "too_large"

    def on_message_complete(self) -> None:
        if self._is_interim and not self._is_complete:
            self._forget_head()
        elif self._failure is None and not self._is_complete:
            self._is_complete = True
            self.is_reusable = self._parser.should_keep_alive()

    def _forget_head(self) -> None:
        self._has_head = False
        self._has_length = False
        self._is_interim = False
        self._is_too_large = False
