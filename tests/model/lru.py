"""Slow model of `picker._core.lru`: a list per slot, newest first. Entries have the core's numbers."""


class Lru:
    def __init__(self, width: int) -> None:
        self.lists: list[list[int]] = [[] for _ in range(width)]
        self.entries: dict[int, tuple[int, int, int]] = {}  # node, slot, held

    def place(self, entry: int, newer: int) -> None:
        order = self.lists[self.entries[entry][1]]
        order.insert(order.index(newer) + 1 if newer else 0, entry)

    def add(self, entry: int, node: int, slot: int, held: int, newer: int) -> None:
        assert entry not in self.entries
        self.entries[entry] = node, slot, held
        self.place(entry, newer)

    def move(self, entry: int, newer: int) -> None:
        self.lists[self.entries[entry][1]].remove(entry)
        self.place(entry, newer)

    def hold(self, entry: int, held: int) -> None:
        node, slot, _ = self.entries[entry]
        self.entries[entry] = node, slot, held

    def drop(self, entry: int) -> None:
        self.lists[self.entries[entry][1]].remove(entry)
        del self.entries[entry]

    def widen(self, width: int) -> None:
        self.lists += [[] for _ in range(width - len(self.lists))]

    def order(self, slot: int) -> list[tuple[int, int]]:
        return [(self.entries[entry][0], self.entries[entry][2]) for entry in self.lists[slot]]

    def held(self, slot: int) -> int:
        return sum(held for _, held in self.order(slot))

    def __len__(self) -> int:
        return sum(held for _, _, held in self.entries.values())
