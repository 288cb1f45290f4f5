"""An HTTP/2 client of a `Connection` of the core, without a socket: bytes are carried by hand, and time is told."""

from collections.abc import Mapping
from typing import Any

from picker._core.h2 import Connection, Server
from tests.support.h2peer import Call, Peer

START_NS = 1_000_000_000
MS = 1_000_000


class MemoryCall(Call):
    """One stream of a `MemoryClient`."""

    def __init__(self, client: "MemoryClient", stream_id: int) -> None:
        super().__init__(stream_id)
        self._client = client
        self.unsent = b""
        """What the server gives no window for."""
        self.sent = bytearray()
        """What went out, for those who want to know; they may clear it."""
        self._ends = False
        self._ended = False

    def send(self, data: bytes = b"", *, end_stream: bool = False) -> None:
        """Bytes of the stream, in frames and windows as they must be; what has no window waits in `unsent`."""
        self.unsent += data
        self._ends |= end_stream
        self.push()
        self._client.exchange()

    def push(self) -> bool:
        """Hand frames to HTTP/2, as far as there is window; whether there were any."""
        if self._ended or self.reset_by >= 0 or self.id not in self._client.protocol.streams:
            return False
        part = self.unsent[: max(self._client.room(self), 0)]
        is_last = self._ends and len(part) == len(self.unsent)
        if not part and not is_last:
            return False
        self._client.protocol.send_data(self.id, part, end_stream=is_last)
        self.sent += part
        self.unsent = self.unsent[len(part) :]
        self._ended = is_last
        return True

    def reset(self, error: int = 8) -> None:
        """The client resets the stream: CANCEL unless told otherwise."""
        self._ended = True
        self._client.protocol.reset_stream(self.id, error)
        self._client.exchange()


class MemoryClient(Peer[MemoryCall]):
    """A client of a fresh connection of `server`. `now_ns` is the time of everything; tests move it as they like.

    `connection_window` is what it may be sent altogether before it is read; HTTP/2 knows no less than 65,535.
    """

    def __init__(
        self,
        server: Server,
        *,
        initial_window: int = 1 << 20,
        connection_window: int = 1 << 24,
        is_open: bool = True,
    ) -> None:
        super().__init__(initial_window=initial_window)
        self.now_ns = START_NS
        self.connection = Connection(server, self.now_ns)
        self.received: list[bytes] = []
        """What the server has sent, as it was written."""
        self.given = bytearray()
        """What the server was sent."""
        self.cut = 0
        """Bytes that the server is given at once; 0 = all there are."""
        self.takes = True
        """Whether its socket takes what the server writes."""
        self.protocol.initiate_connection()
        if connection_window > 65_535:
            self.protocol.increment_flow_control_window(connection_window - 65_535)
        if is_open:
            self.exchange()

    def make_call(self, stream_id: int) -> MemoryCall:
        return MemoryCall(self, stream_id)

    def exchange(self) -> None:
        """Carry bytes both ways until there are no more."""
        moved = True
        while moved:
            moved = self._carry_in() | (self.takes and self._carry_out())
            moved |= any([call.push() for call in self.calls.values() if call.unsent or call._ends])
        self.connection._check()

    def _carry_in(self) -> bool:
        data = self.protocol.data_to_send()
        self.given += data
        size = self.cut or max(len(data), 1)
        for at in range(0, len(data), size):
            self.connection.feed(data[at : at + size], self.now_ns)
            self.connection._check()
        return bool(data)

    def _carry_out(self) -> bool:
        written = self.connection.take()
        if written is None:
            return False
        self.received.append(bytes(written))
        self.receive(self.received[-1])
        return True

    def send_raw(self, data: bytes) -> None:
        """Bytes that the client's own HTTP/2 knows nothing of."""
        self.connection.feed(data, self.now_ns)
        self.exchange()

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of all that the server has sent."""
        return frames(b"".join(self.received))

    def pass_time(self, nanoseconds: int) -> None:
        """Time passes at once, as far as the connection can tell."""
        self.now_ns += nanoseconds
        self.connection.tick(self.now_ns)
        self.exchange()

    def close(self) -> None:
        """The socket is gone."""
        self.connection.close(self.now_ns)
        self.connection._check()


def server(*services: Any, rules: Mapping[str, int] | None = None, **given: Any) -> Server:
    """A server of these services."""
    return Server([service.methods() for service in services], rules=rules or {}, **given)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A raw HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED, ACK = 1, 4, 8, 32, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of whole frames."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        head = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        assert at + 9 + size <= len(data), "a frame is cut off"
        found.append((*head, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


class RawClient:
    """A client that sends the frames it is told to, and takes every frame for what it is."""

    def __init__(self, server: Server) -> None:
        self.connection = Connection(server, START_NS)

    def feed(self, *sent: bytes) -> list[tuple[int, int, int, bytes]]:
        """What the server answers to these bytes."""
        self.connection.feed(b"".join(sent), START_NS)
        self.connection._check()
        written = []
        while (part := self.connection.take()) is not None:
            written.append(bytes(part))
        self.connection._check()
        return frames(b"".join(written))

    def begin(self) -> None:
        """As every client must; and let the server send what it likes."""
        self.feed(PREFACE, frame(SETTINGS, 0, 0), frame(SETTINGS, ACK, 0), frame(WINDOW_UPDATE, 0, 0, b"\x70\0\0\0"))


def plain_headers(pairs: Mapping[str, str]) -> bytes:
    """A header block that nothing is compressed in; names and values of up to 126 bytes."""
    return b"".join(
        b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode() for key, value in pairs.items()
    )
