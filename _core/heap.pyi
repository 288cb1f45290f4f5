from typing import final

@final
class Heap:
    """Ranks of the keys 0 to `size` - 1, least first; for tests."""

    def __new__(cls, size: int) -> Heap: ...
    def push(self, key: int, tag: int, order: int) -> None:
        """Rank `key`; of equals, the lower key comes first. IndexError; ValueError if it is in already; MemoryError."""

    def move(self, key: int, tag: int, order: int) -> None:
        """Give it another rank. IndexError; KeyError if it is not in."""

    def drop(self, key: int) -> None:
        """Take `key` out. IndexError; KeyError if it is not in."""

    def first(self) -> int | None:
        """The key that comes first, or None."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
