"""The client's end of an HTTP/2 connection that carries gRPC, by the `h2` library: what was asked and answered.

It moves no bytes: `h2client` does that over sockets, `h2memory` by hand.
"""

from collections import deque
from typing import Any, Generic, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.settings

STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
FRAME_HEAD = 9
Header = tuple[str, str]


def framed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message behind its prefix."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


class Call:
    """One stream. `headers` are of the response; `status` is gRPC's name, or what else ended it."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.headers: dict[str, str] = {}
        self.status = ""
        self.text = ""
        self.messages: deque[bytes] = deque()
        self.reset_by = -1
        """Error code of the RST_STREAM that came; -1 if none has."""
        self._bytes = bytearray()

    @property
    def is_over(self) -> bool:
        return bool(self.status)

    def take(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 5 and len(self._bytes) >= 5 + int.from_bytes(self._bytes[1:5], "big"):
            size = int.from_bytes(self._bytes[1:5], "big")
            assert self._bytes[0] == 0
            self.messages.append(bytes(self._bytes[5 : 5 + size]))
            del self._bytes[: 5 + size]

    def end(self, headers: dict[str, str]) -> None:
        assert not self._bytes, "the end came within a message"
        if "grpc-status" in headers:
            self.status, self.text = STATUS[int(headers["grpc-status"])], headers.get("grpc-message", "")
        else:
            self.status = f"HTTP {headers[':status']}"


AnyCall = TypeVar("AnyCall", bound=Call)


class Peer(Generic[AnyCall]):
    """A connection. `initial_window` is what streams may be sent before they are read."""

    def __init__(self, *, initial_window: int = 1 << 20) -> None:
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.protocol.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window}
        )
        self.calls: dict[int, AnyCall] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pings = 0
        """Answers to our own."""
        self.reads = True
        """Whether what was received is given back to the server as window."""
        self._bytes = bytearray()

    def make_call(self, stream_id: int) -> AnyCall:
        raise NotImplementedError

    def open(
        self,
        path: str,
        *extra: Header,
        method: str = "POST",
        kind: str = "application/grpc",
        authority: str = "test",
        end_stream: bool = False,
    ) -> AnyCall:
        """A stream whose headers are sent with the next bytes."""
        call = self.make_call(self.protocol.get_next_available_stream_id())
        self.calls[call.id] = call
        headers = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        headers += [("content-type", kind), ("te", "trailers"), *extra]
        self.protocol.send_headers(call.id, headers, end_stream=end_stream)
        return call

    def room(self, call: Call) -> int:
        """Bytes that the next DATA frame of the stream may have."""
        return min(self.protocol.local_flow_control_window(call.id), self.protocol.max_outbound_frame_size)

    def receive(self, data: bytes) -> None:
        """Bytes of the server; frame by frame, for `h2` takes no more once it has seen a GOAWAY, and we talk on."""
        self._bytes += data
        while len(self._bytes) >= FRAME_HEAD:
            size = FRAME_HEAD + int.from_bytes(self._bytes[:3], "big")
            if len(self._bytes) < size:
                return
            frame = bytes(self._bytes[:size])
            del self._bytes[:size]
            for event in self.protocol.receive_data(frame):
                self._take(event)

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(event)
            self.protocol.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN  # its streams go on
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        elif (call := self.calls.get(getattr(event, "stream_id", 0) or 0)) is not None:
            self._take_of_call(call, event)

    def _take_of_call(self, call: AnyCall, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            call.headers = dict(event.headers)
            if event.stream_ended is not None:
                call.end(call.headers)
        elif isinstance(event, h2.events.DataReceived):
            call.take(event.data)
            if self.reads:
                self.protocol.acknowledge_received_data(event.flow_controlled_length, call.id)
        elif isinstance(event, h2.events.TrailersReceived):
            call.end(dict(event.headers))
        elif isinstance(event, h2.events.StreamReset):
            call.reset_by = int(event.error_code)
            if not call.is_over:
                call.status = f"RESET {call.reset_by}"
