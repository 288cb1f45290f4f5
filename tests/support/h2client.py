"""An HTTP/2 client for gRPC that is not ours underneath (the `h2` library), and does what it is told, sense or not."""

import asyncio
import contextlib
from collections import deque
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from tests.support import messages

STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def framed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message behind its prefix."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


class H2Call:
    """One stream. `headers` and `trailers` are of the response; `status` is gRPC's name, or what else ended it."""

    def __init__(self, client: "H2Client", stream_id: int) -> None:
        self.client = client
        self.id = stream_id
        self.headers: dict[str, str] = {}
        self.status = ""
        self.text = ""
        self.messages: deque[bytes] = deque()
        self._bytes = b""

    @property
    def is_over(self) -> bool:
        return bool(self.status)

    def take(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 5 and len(self._bytes) >= 5 + int.from_bytes(self._bytes[1:5], "big"):
            size = int.from_bytes(self._bytes[1:5], "big")
            assert self._bytes[0] == 0
            self.messages.append(self._bytes[5 : 5 + size])
            self._bytes = self._bytes[5 + size :]

    def end(self, headers: dict[str, str]) -> None:
        assert not self._bytes, "the end came within a message"
        if "grpc-status" in headers:
            self.status, self.text = STATUS[int(headers["grpc-status"])], headers.get("grpc-message", "")
        else:
            self.status = f"HTTP {headers[':status']}"

    async def send(self, data: bytes, *, end_stream: bool = False) -> None:
        """Bytes of the stream, in frames and windows as they must be."""
        while data or end_stream:
            room = min(
                self.client.protocol.local_flow_control_window(self.id), self.client.protocol.max_outbound_frame_size
            )
            part, rest = data[:room], data[room:]
            if part or (end_stream and not data):
                self.client.protocol.send_data(self.id, part, end_stream=end_stream and not rest)
                await self.client.flush()
                if not rest:
                    return
            else:
                await self.client.something()
            data = rest

    async def received(self) -> bytes:
        """The next message. AssertionError if the stream ends before."""
        await self.client.until(lambda: bool(self.messages) or self.is_over)
        assert self.messages, f"ended with {self.status}: {self.text}"
        return self.messages.popleft()

    async def ended(self) -> str:
        """Its status, once it is over."""
        await self.client.until(lambda: self.is_over)
        return self.status

    async def reset(self, error: int = h2.errors.ErrorCodes.CANCEL) -> None:
        self.client.protocol.reset_stream(self.id, error)
        self.status = "CANCELLED"
        await self.client.flush()


class H2Client:
    """A connection. Use it as a context manager; `initial_window` is what streams may be sent before they are read."""

    def __init__(self, port: int, *, initial_window: int = 1 << 20, tls: Any = None) -> None:
        self._port = port
        self._tls = tls
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.protocol.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window}
        )
        self.calls: dict[int, H2Call] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.is_closed = False
        self.reads = True
        """Whether what was received is given back to the server as window."""
        self._changed = asyncio.Event()

    async def __aenter__(self) -> "H2Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        self.protocol.initiate_connection()
        self._task = asyncio.create_task(self._read())
        await self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def open(self, path: str, *extra: tuple[str, str], method: str = "POST", kind: str = "application/grpc") -> H2Call:
        """A stream whose headers are sent with the next flush."""
        call = H2Call(self, self.protocol.get_next_available_stream_id())
        self.calls[call.id] = call
        headers = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
        self.protocol.send_headers(call.id, [*headers, ("content-type", kind), ("te", "trailers"), *extra])
        return call

    async def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.write(self.protocol.data_to_send())
            await self.writer.drain()

    async def something(self) -> None:
        """Wait until anything was received."""
        self._changed.clear()
        await self._changed.wait()

    async def until(self, condition: Any) -> None:
        while not condition():
            assert not self.is_closed, f"the connection was closed: {self.goaways}"
            await self.something()

    async def _read(self) -> None:
        while data := await self._chunk():
            for event in self.protocol.receive_data(data):
                self._take(event)
            await self.flush()
            self._changed.set()
        self.is_closed = True
        self._changed.set()

    async def _chunk(self) -> bytes:
        try:
            return await self.reader.read(1 << 16)
        except OSError:
            return b""

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(event)
            self.protocol.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN  # its streams go on
            return
        call = self.calls.get(getattr(event, "stream_id", 0) or 0)
        if call is None:
            return
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
        elif isinstance(event, h2.events.StreamReset) and not call.is_over:
            call.status = f"RESET {event.error_code}"


class H2Stream:
    """An ext_proc stream as `tests.support.streams.Stream` wants it."""

    def __init__(self, client: H2Client, path: str) -> None:
        self.call = client.open(path)

    async def send(self, *requests: bytes) -> None:
        for request in requests:
            if self.call.is_over:
                await asyncio.sleep(0)  # let others run: whoever sends until something happens must not starve it
                return
            await self.call.send(framed(request))

    async def receive(self, count: int = 1) -> list[Any]:
        return [messages.parse(await self.call.received()) for _ in range(count)]

    async def half_close(self) -> None:
        if not self.call.is_over:
            await self.call.send(b"", end_stream=True)

    async def cancel(self) -> None:
        if not self.call.is_over:
            await self.call.reset()

    async def ended(self) -> str:
        status = await self.call.ended()
        assert not self.call.messages
        return status
