from collections.abc import Iterable
from typing import final

from typing_extensions import Buffer

class CodecError(ValueError):
    """The bytes are not a ProcessingRequest that picker can read."""

@final
class Message:
    """One decoded ProcessingRequest, for tests and tools; the data plane uses `message_t`.

    Holds on to `data` (a contiguous bytes-like object) and copies nothing before it is asked for.
    Raises CodecError for bytes that are no ProcessingRequest of one of the six known kinds.
    """

    def __new__(cls, data: Buffer) -> Message: ...
    @property
    def kind(self) -> int:
        """Field number of the request: 2 request headers, 3 response headers, 4, 5 bodies, 6, 7 trailers."""

    @property
    def body(self) -> bytes:
        """The body of a body message; empty for the other kinds."""

    @property
    def end_of_stream(self) -> bool:
        """Whether a headers or body message is the last of its direction; False for trailers."""

    @property
    def is_observed(self) -> bool:
        """Whether the gateway only shows what passes, and takes no answer (observability_mode)."""

    @property
    def modes(self) -> tuple[int, int] | None:
        """Request and response BodySendMode numbers of protocol_config, or None if that is absent."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers or trailers as (key, value) pairs, in order."""

    def metadata(self, namespace: bytes, key: bytes) -> bytes | list[bytes | None] | None:
        """metadata_context.filter_metadata[namespace][key]: a string's bytes, a list's items (None for what is no
        string), or None for anything else and for what is absent.

        Raises CodecError where the way there is malformed: `Message` itself does not look into metadata.
        """

    def _check(self) -> None:
        """Assert the invariant: every slice lies inside the message."""

def header_pairs(headers: bytes) -> list[tuple[bytes, bytes]]:
    """(name, value) pairs of a serialised HeaderMap. CodecError if it is none."""

@final
class Writer:
    """Writes ProcessingResponses, one behind the other, for tests and tools; the data plane uses `buffer_t`.

    `reply` is a field number of ProcessingResponse's oneof; another one than is stated is a ValueError. A method that
    raises has written nothing.
    """

    def __new__(cls) -> Writer: ...
    def common(
        self,
        reply: int,
        destination: bytes = b"",
        *,
        removed: Iterable[bytes] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | None = None,
        mode: tuple[int, int, int] | None = None,
        clear_route_cache: bool = False,
    ) -> None:
        """A HeadersResponse or BodyResponse (`reply` 1 to 4).

        Sets the destination (header and dynamic metadata) unless empty, and `headers` ((key, value) pairs); removes
        the headers named in `removed`; puts `body` in the body's place. At most 16 headers each, else OverflowError.
        `mode` overrides the body modes of request and response and the HeaderSendMode of response trailers from here
        on. Raises CodecError for names or a destination that are not UTF-8.
        """

    def unchanged(self, reply: int) -> None:
        """A HeadersResponse or BodyResponse (`reply` 1 to 4) without a CommonResponse."""

    def streamed(self, reply: int, body: Buffer, end_of_stream: bool) -> None:
        """A BodyResponse (`reply` 3 or 4) holding one streamed_response chunk."""

    def trailers(self, reply: int) -> None:
        """A TrailersResponse (`reply` 5 or 6) that changes nothing."""

    def immediate(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, details: bytes = b"") -> None:
        """An ImmediateResponse with an HTTP status (200 to 599, else ValueError), (key, value) headers and so on.

        Raises OverflowError for more than 16 headers, CodecError for header names or details that are not UTF-8.
        """

    def take(self) -> bytes:
        """All that was written since the last time; the room is kept for what follows."""

    def clear(self) -> None:
        """Forget what was written; the room is kept."""

    def __len__(self) -> int: ...
    def _check(self) -> None:
        """Assert the invariants of the buffer."""
