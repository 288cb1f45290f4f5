from typing import final

@final
class Deadlines:
    """Deadlines of the keys 0 to `size` - 1; for tests."""

    def __new__(cls, size: int) -> Deadlines: ...
    def set(self, key: int, at_ns: int) -> None:
        """Wait for `key` until `at_ns`, whether or not it is waited for already. IndexError, MemoryError."""

    def drop(self, key: int) -> None:
        """Wait for `key` no more; harmless if nobody does. IndexError."""

    def due(self, now_ns: int) -> tuple[int, int] | None:
        """(key, time) of the first that is due by now."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
