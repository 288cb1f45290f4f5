"""Messages over a stream socket, so that neither side is held up: one message in and one out per turn of the loop.

A frame is its length (4 bytes, little-endian) and a msgpack message. What comes in faster than it is handled stays in
the socket; what goes out is made only when the socket takes it, so nothing grows.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec

__all__ = ["MOST_FRAME_BYTES", "Link"]

M = TypeVar("M")

MOST_FRAME_BYTES = 16 << 20
MOST_WAITING = 64
"""Frames that may wait to be handled; beyond, nothing more is read."""

_HEAD = 4
_LOG = logging.getLogger("picker.control")


class Link(asyncio.Protocol, Generic[M]):
    """One end. `take` is given each message of type `of`; what it raises ends the link, as does a frame that is none.

    `closed` is set once the other end has gone or the link was ended; nothing is taken after that.
    """

    def __init__(self, of: Any, take: Callable[[M], None]) -> None:
        self.closed = asyncio.Event()
        self._decode: Callable[[bytes], M] = msgspec.msgpack.Decoder(of).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._take = take
        self._buffer = bytearray()
        self._frames: deque[bytes] = deque()
        self._answers: deque[Iterator[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._is_writable = True
        self._is_reading = True
        self._turn: asyncio.Handle | None = None

    def send(self, messages: Iterable[Any]) -> None:
        """Sends these after what was given before, each made when it is its turn. Nothing once closed."""
        if not self.closed.is_set():
            self._answers.append(iter(messages))
            self._plan()

    def close(self) -> None:
        """Ends the link; what was not sent yet is lost."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._plan()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._plan()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _HEAD:
            size = int.from_bytes(buffer[at : at + _HEAD], "little")
            if size > MOST_FRAME_BYTES:
                _LOG.error("a frame of %d bytes on the control link", size)
                return self.close()
            if len(buffer) - at - _HEAD < size:
                break
            at += _HEAD + size
            self._frames.append(bytes(buffer[at - size : at]))
        del buffer[:at]
        self._plan()

    def _end(self) -> None:
        self.closed.set()
        self._frames.clear()
        self._answers.clear()

    def _plan(self) -> None:
        """Another turn if there is something to do."""
        if self._transport is None or self.closed.is_set():
            return
        self._hold(self._transport, len(self._frames) > MOST_WAITING)
        if self._turn is None and (self._frames or (self._answers and self._is_writable)):
            self._turn = asyncio.get_running_loop().call_soon(self._work)

    def _hold(self, transport: asyncio.Transport, hold: bool) -> None:
        if hold and self._is_reading:
            transport.pause_reading()
        elif not hold and not self._is_reading:
            transport.resume_reading()
        self._is_reading = not hold

    def _work(self) -> None:
        self._turn = None
        try:
            if self._frames:
                self._take(self._decode(self._frames.popleft()))
            self._send_one()
        except Exception:
            _LOG.exception("the control link failed")
            self.close()
        self._plan()

    def _send_one(self) -> None:
        """The next message there is, if the socket takes it."""
        while self._answers and self._is_writable and self._transport is not None:
            for message in self._answers[0]:
                frame = self._encode(message)
                self._transport.write(len(frame).to_bytes(_HEAD, "little") + frame)
                return
            self._answers.popleft()
