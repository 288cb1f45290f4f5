"""An HTTP/2 client for gRPC that is not ours underneath (the `h2` library), and does what it is told, sense or not."""

import asyncio
import contextlib
from typing import Any

import h2.errors

from tests.support import messages
from tests.support.h2peer import Call, Peer, framed

__all__ = ["H2Call", "H2Client", "H2Stream", "framed"]


class H2Call(Call):
    """One stream of an `H2Client`."""

    def __init__(self, client: "H2Client", stream_id: int) -> None:
        super().__init__(stream_id)
        self.client = client

    async def send(self, data: bytes, *, end_stream: bool = False) -> None:
        """Bytes of the stream, in frames and windows as they must be."""
        while data or end_stream:
            room = self.client.room(self)
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


class H2Client(Peer[H2Call]):
    """A connection. Use it as a context manager; `initial_window` is what streams may be sent before they are read."""

    def __init__(
        self, port: int, *, address: str = "127.0.0.1", initial_window: int = 1 << 20, tls: Any = None
    ) -> None:
        super().__init__(initial_window=initial_window)
        self._address, self._port = address, port
        self._tls = tls
        self.is_closed = False
        self._changed = asyncio.Event()

    def make_call(self, stream_id: int) -> H2Call:
        return H2Call(self, stream_id)

    async def __aenter__(self) -> "H2Client":
        named = "localhost" if self._tls else None
        self.reader, self.writer = await asyncio.open_connection(
            self._address, self._port, ssl=self._tls, server_hostname=named
        )
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

    async def closed(self) -> None:
        """Until the server has closed it."""
        while not self.is_closed:
            await self.something()

    async def _read(self) -> None:
        while data := await self._chunk():
            self.receive(data)
            await self.flush()
            self._changed.set()
        self.is_closed = True
        self._changed.set()

    async def _chunk(self) -> bytes:
        try:
            return await self.reader.read(1 << 16)
        except OSError:
            return b""


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
