from typing import final

@final
class Lru:
    """Entries of slots 0..width-1; for tests. Raises KeyError for an entry or slot that does not exist."""

    def __new__(cls, width: int) -> Lru: ...
    def add(self, node: int, slot: int, held: int, newer: int = 0) -> int:
        """A new entry behind `newer`, or the newest. Raises ValueError for node 0, or if `newer` is another slot's."""

    def move(self, entry: int, newer: int = 0) -> None:
        """Put an entry directly behind `newer`, or first. Raises ValueError if `newer` is itself or another slot's."""

    def hold(self, entry: int, held: int) -> None:
        """The entry now holds so many blocks."""

    def drop(self, entry: int) -> None:
        """Remove an entry and what it holds."""

    def widen(self, width: int) -> None:
        """Slots 0..width-1; never shrinks."""

    def order(self, slot: int) -> list[tuple[int, int]]:
        """The (node, blocks held) of a slot's entries, newest first."""

    def held(self, slot: int) -> int:
        """Blocks a slot holds."""

    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """Bytes allocated."""

    def _check(self) -> None: ...
