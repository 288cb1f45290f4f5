"""Slow model of `picker._core.h2`: each stream by itself, as if nothing were ever held up.

What a stream answers is what a session answers whose messages come one by one, out of all the bytes sent so far; how it
ends is said by a few words. Windows, frames and reads do not exist: they may delay what is received, never change it.
"""

from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.model.inbox import Inbox
from tests.support import messages


class Stream:
    """`status` is gRPC's name of how it ended, "" while it goes on; `replies` are all that are sent before that."""

    def __init__(self, engine: Engine, *, largest: int, knows_encoding: bool) -> None:
        self.inbox = Inbox(largest)
        self.knows_encoding = knows_encoding
        self.session = Session(engine, 0)
        self.replies: list[bytes] = []
        self.status = ""

    def end(self, status: str) -> None:
        self.status = self.status or status
        self.session.close(0)

    def send(self, data: bytes) -> None:
        if self.status:
            return
        found, problem = self.inbox.feed(data)
        for message in found:
            self._message(message)
        if problem is OverflowError:
            self.end("RESOURCE_EXHAUSTED")
        elif problem:
            self.end("UNIMPLEMENTED" if self.inbox.bytes[0] == 1 and not self.knows_encoding else "INTERNAL")

    def _message(self, message: bytes) -> None:
        if self.status:
            return
        try:
            replies = self.session.feed(message, 0)
        except SessionError:
            self.end("INVALID_ARGUMENT")
            return
        self.replies += replies
        if any(messages.parse(reply).HasField("immediate_response") for reply in replies):
            self.end("OK")  # answered by picker itself

    def half_close(self) -> None:
        self.end("OK" if self.inbox.is_empty else "INTERNAL")

    def expire(self) -> None:
        self.end("DEADLINE_EXCEEDED")

    def stop(self) -> None:
        self.end("UNAVAILABLE")
