"""Slow model of `picker._core.holders`: a dictionary from slot to id and whether all of the node is held."""


class Holders:
    def __init__(self) -> None:
        self.by_slot: dict[int, tuple[int, bool]] = {}

    def find(self, slot: int) -> int:
        return self.by_slot.get(slot, (0, False))[0]

    def join(self, slot: int, id: int, whole: bool) -> None:
        self.by_slot[slot] = id, whole

    def leave(self, slot: int) -> None:
        del self.by_slot[slot]

    def mark(self, slot: int, whole: bool) -> None:
        self.by_slot[slot] = self.by_slot[slot][0], whole

    def items(self) -> list[tuple[int, int, bool]]:
        return [(slot, *self.by_slot[slot]) for slot in sorted(self.by_slot)]
