from typing import final

from typing_extensions import Buffer

@final
class Outbox:
    """A framed box; for tests."""

    def __new__(cls) -> Outbox: ...
    def write(self, reply: Buffer) -> None:
        """A whole reply. MemoryError."""

    def own(self, body: Buffer) -> None:
        """A body to lend of, before anything is lent. MemoryError; ValueError if there is one."""

    def lend(self, head: bytes, start: int, size: int, tail: bytes) -> None:
        """A reply of `head`, a piece of the body, and `tail`. IndexError for what is not in the body; MemoryError."""

    def mark(self) -> None:
        """`rewind` takes back what is written from here on."""

    def rewind(self) -> None:
        """Take back what was written since `mark`; nothing of it may have been sent."""

    def send(self, size: int) -> bytes:
        """The next bytes, `size` of them or all there are. MemoryError, and nothing was sent."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
