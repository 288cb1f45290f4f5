from typing import final

WINDOWS: tuple[str, ...]

@final
class Counters:
    """Room for so many counters (1 to 2^31); for tests. ValueError, MemoryError."""

    def __new__(cls, room: int) -> Counters: ...
    def add(self, id: int, amount: int, *, kind: int, wall_ns: int) -> int | None:
        """Count `amount` more; what is used then in the window of that time, None if there is no room for a counter.

        `kind`: an index of WINDOWS, ValueError for any other and for a time before 1970.
        """

    def find(self, id: int) -> tuple[int, int, int] | None:
        """(kind, number of the window, used) of a counter that is there."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
