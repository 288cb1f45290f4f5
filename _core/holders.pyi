from typing import final

@final
class Holders:
    """The holders of one node; for tests. Raises KeyError where a slot should be (or not be) among them."""

    def __new__(cls, width: int) -> Holders: ...
    def find(self, slot: int) -> int:
        """The id of `slot`, or 0."""

    def join(self, slot: int, id: int, whole: bool) -> None:
        """Add a slot, with an id that is not 0. The width grows to have room for it."""

    def leave(self, slot: int) -> None:
        """Remove a slot."""

    def mark(self, slot: int, whole: bool) -> None:
        """A slot now holds the whole node, or a part."""

    def copied(self) -> list[tuple[int, int, bool]]:
        """(slot, id, whole) of each holder of a copy, by slot."""

    def items(self) -> list[tuple[int, int, bool]]:
        """(slot, id, whole) of each, by slot."""

    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """Bytes of the set, 0 for fewer than two holders."""

    def _check(self) -> None: ...
