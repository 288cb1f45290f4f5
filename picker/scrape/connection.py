"""One connection to a metrics port: makes it, writes requests, has the answers read, and tells its owner.

No task runs for a page: it is a write, a read and a call, and costs what those cost. Only the connection has a task,
which makes it and then waits for its end.
"""

import asyncio
import logging
import ssl
from typing import Protocol, cast

from picker.scrape.failures import FetchFailed, Reason
from picker.scrape.response import ResponseReader

__all__ = ["Connection", "Outcome", "Owner"]

log = logging.getLogger(__name__)

Outcome = bytes | bytearray | Reason
"""A page, or why there is none."""


class Owner(Protocol):
    """Whoever asks. Called on the loop's thread, never from within a method of the connection that it calls."""

    def connected(self, connection: "Connection") -> None:
        """The connection is ready for its first request."""

    def answered(self, connection: "Connection", outcome: Outcome) -> None:
        """What became of a request, or of making the connection; not once it was dropped."""


class Connection(asyncio.BufferedProtocol):
    """Carries one request at a time, from `open` until it fails, is closed by either side, or dropped.

    `buffer` receives; any number of connections of one loop may share it, because uvloop and asyncio's selector loop
    ask for it, fill it and report it without anything between.
    """

    def __init__(self, owner: Owner, reader: ResponseReader, buffer: memoryview) -> None:
        self.is_stale = False
        """Whether it was closed before a byte of an answer, having answered before: then nobody failed."""
        self._owner: Owner | None = owner
        self._reader = reader
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_waiting = False
        self._has_answered = False
        self._lost = asyncio.Event()

    def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Task[None]:
        """Begins to connect; `Owner.connected` or `Owner.answered` follows. The task ends with the connection."""
        task = self._task = asyncio.get_running_loop().create_task(self._live(host, port, tls))
        return task

    async def _live(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        reason: Reason | None = None
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, host, port, ssl=tls)
        except OSError:
            reason = "connect"
        except Exception:
            log.exception("connecting failed by a bug", extra={"endpoint": f"{host}:{port}"})
            reason = "internal"
        self._task = None
        if reason is None:
            await self._lost.wait()
        else:
            self._settle(reason)

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> None:
        """Sends a request; `Owner.answered` follows. Raises RuntimeError unless it `is_usable` and idle."""
        if self._transport is None or self._is_waiting:
            raise RuntimeError("the connection cannot take a request now")
        self._is_waiting = True
        self._reader.begin()
        self._transport.write(request)

    def drop(self) -> None:
        """Closes at once. The owner hears no more of it."""
        self._owner = None
        self._is_waiting = False
        if self._transport is not None:
            self._transport.abort()
        elif self._task is not None:
            self._task.cancel()

    def _settle(self, outcome: Outcome) -> None:
        """Tells the owner, and leaves the connection open only if another answer can come on it."""
        owner = self._owner
        self._is_waiting = False
        self._has_answered = True
        if isinstance(outcome, str):
            self.drop()
        elif self._transport is not None and not self._reader.is_reusable:
            self._transport.close()
        if owner is not None:
            owner.answered(self, outcome)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._owner is None:
            self._transport.abort()
        else:
            self._owner.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._is_waiting:
            self.drop()  # nobody asked
        elif (outcome := self._read(nbytes)) is not None:
            self._settle(outcome)

    def _read(self, nbytes: int) -> Outcome | None:
        try:
            return self._reader.take() if self._reader.feed(self._buffer[:nbytes]) else None
        except FetchFailed as failure:
            return failure.reason

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost.set()
        if self._is_waiting:
            self.is_stale = self._has_answered and not self._reader.has_begun
            self._settle("http" if exc is not None else self._last_words())
        self._reader.close()

    def _last_words(self) -> Outcome:
        try:
            self._reader.end()
        except FetchFailed as failure:
            return failure.reason
        return self._reader.take()
