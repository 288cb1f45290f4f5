"""Slow model of `picker._core.heap`: a dict, searched from end to end."""


class Heap:
    def __init__(self) -> None:
        self.ranks: dict[int, tuple[int, int, int]] = {}

    def push(self, key: int, tag: int, order: int) -> None:
        self.ranks[key] = (tag, order, key)

    def drop(self, key: int) -> None:
        del self.ranks[key]

    def first(self) -> int | None:
        return min(self.ranks, key=lambda key: self.ranks[key], default=None)

    def __len__(self) -> int:
        return len(self.ranks)
