from typing import final

from typing_extensions import Buffer

@final
class Inbox:
    """Takes a stream of messages of at most `largest` bytes each apart; for tests and tools."""

    def __new__(cls, largest: int) -> Inbox: ...
    def feed(self, data: Buffer) -> list[bytes]:
        """The messages that `data` completes. OverflowError for one that is too large, ValueError for one that is
        compressed or none at all; no more may be fed then. MemoryError."""

    @property
    def is_empty(self) -> bool:
        """Is no message under way?"""

    def _check(self) -> None: ...
