from collections.abc import Callable, Iterable, Mapping
from typing import final

from typing_extensions import Buffer

from picker._core.calls import Methods

@final
class Server:
    """What all connections share: the methods they answer, rules, and a buffer that sockets are read into.

    The buffer is the object itself: `inbound_bytes` writable bytes, good until a connection has taken them.
    `on_error(exception)` hears of what a plugin host raised. ValueError for what cannot be; MemoryError.
    """

    def __new__(
        cls,
        services: Iterable[Methods],
        *,
        rules: Mapping[str, int] = ...,
        inbound_bytes: int = ...,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Server: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def open_calls(self) -> int:
        """Streams of all connections."""

    def counters(self) -> dict[str, int]:
        """What connections have seen since the start: connections, calls, messages, refused calls, HTTP/2 faults."""

    def _check(self) -> None: ...

@final
class Block:
    """Bytes on their way to a socket; their memory goes back to the server's pool when nobody holds this."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def _check(self) -> None: ...

@final
class Connection:
    """A connection that `server` has accepted at `now_ns`; close it when the socket is gone. MemoryError.

    `owner`: whoever has the socket, for services that answer when nothing has been read.
    """

    def __new__(cls, server: Server, now_ns: int, owner: object = None) -> Connection: ...
    @property
    def owner(self) -> object: ...
    def received(self, size: int, now_ns: int) -> None:
        """The first `size` bytes of the server's buffer have come. ValueError if it has not as many."""

    def feed(self, data: Buffer, now_ns: int) -> None:
        """These bytes have come."""

    def take(self) -> memoryview | bytes | None:
        """What to write next, or None. Not to be called while the socket takes no more: nothing is lost meanwhile."""

    def tick(self, now_ns: int) -> None:
        """Do what is due by now: end what waited too long, see whether the peer is still there. Then `take`."""

    def wake(self) -> None:
        """Something that calls wait for has changed. Then `take`."""

    def drain(self, now_ns: int) -> None:
        """Ask the peer to open no more streams here. Then `take`, and `tick` on; `is_over` when the last has ended."""

    def stop(self) -> None:
        """End all calls with UNAVAILABLE. Then `take`."""

    def close(self, now_ns: int) -> None:
        """The socket is gone. Closing twice is harmless."""

    @property
    def is_over(self) -> bool:
        """Is there nothing more to read or to write? Then the socket should be closed."""

    @property
    def pending(self) -> int:
        """Bytes of replies that wait to be sent."""

    def _check(self) -> None: ...
