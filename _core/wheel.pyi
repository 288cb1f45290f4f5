from typing import final

TICK_NS: int

@final
class Wheel:
    """Timers of the keys 0 to `size` - 1, in ticks of TICK_NS; for tests. A time below 0 counts as 0."""

    def __new__(cls, size: int, now_ns: int = 0) -> Wheel: ...
    def set(self, key: int, at_ns: int) -> None:
        """Wait for `key` until `at_ns`, whether or not it is waited for already. IndexError."""

    def drop(self, key: int) -> None:
        """Wait for `key` no more; harmless if nobody does. IndexError."""

    def due(self, now_ns: int) -> tuple[int, int] | None:
        """(key, time) of one that is due by now: never early, less than a tick late. It stays."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
