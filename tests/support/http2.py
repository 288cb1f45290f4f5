"""An HTTP/2 client over cleartext that cuts a body as it is told (the `h2` library)."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.support.beside import sent_beside
from tests.support.http1 import Answer, Header

WINDOW = 1 << 24


class _Exchange:
    """One request on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        self._http2.local_settings = h2.settings.Settings(client=True, initial_values=window)
        self._http2.initiate_connection()
        self._http2.increment_flow_control_window(WINDOW)
        self._changed = asyncio.Event()
        self._is_over = False
        self._answer = Answer(0, {}, b"")
        self._body = bytearray()
        self._problem = ""

    async def send(self, headers: list[Header], pieces: Sequence[bytes] | None, trailers: Sequence[Header]) -> None:
        self._http2.send_headers(1, headers, end_stream=pieces is None)
        for number, piece in enumerate(pieces or (), 1):
            is_last = not trailers and number == len(pieces or ())
            if piece or is_last:  # Envoy takes two empty frames in a row for an attack
                await self._piece(piece, is_last=is_last)
        if trailers and not self._is_over:
            self._http2.send_headers(1, trailers, end_stream=True)
        await self._flush()

    async def _piece(self, piece: bytes, *, is_last: bool) -> None:
        while not self._is_over:
            room = min(self._http2.local_flow_control_window(1), self._http2.max_outbound_frame_size)
            if piece and not room:
                self._changed.clear()
                await self._changed.wait()
                continue
            part, piece = piece[:room], piece[room:]
            self._http2.send_data(1, part, end_stream=is_last and not piece)
            await self._flush()
            if not piece:
                return

    async def _flush(self) -> None:
        self._writer.write(self._http2.data_to_send())
        await self._writer.drain()
        await asyncio.sleep(0)  # so that pieces reach the socket one by one

    async def receive(self) -> Answer:
        while not self._is_over:
            data = await self._reader.read(1 << 18)
            if not data:
                raise ConnectionResetError("the connection was closed")
            for event in self._http2.receive_data(data):
                self._take(event)
            self._writer.write(self._http2.data_to_send())
            self._changed.set()
        if self._problem:
            raise ConnectionResetError(self._problem)
        self._answer.body = bytes(self._body)
        return self._answer

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self._answer.headers = dict(event.headers)
            self._answer.status = int(self._answer.headers.pop(":status"))
        elif isinstance(event, h2.events.DataReceived):
            self._body += event.data
            self._http2.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, h2.events.TrailersReceived):
            self._answer.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self._is_over = True
        elif isinstance(event, h2.events.StreamReset) and not self._is_over:
            self._is_over = True
            self._problem = f"the stream was reset: {event.error_code}"


async def request(
    address: str,
    path: str,
    *,
    method: str = "POST",
    headers: Iterable[Header] = (),
    pieces: Sequence[bytes] | None = None,
    trailers: Sequence[Header] = (),
) -> Answer:
    """As `http1.request`: each piece a DATA frame, or several; the last of `pieces` ends the body.

    ConnectionResetError if the stream is reset before the answer is whole.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    exchange = _Exchange(reader, writer)
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", address)]
    async with sent_beside(exchange.send([*pseudo, *headers], pieces, trailers), writer):
        return await exchange.receive()
