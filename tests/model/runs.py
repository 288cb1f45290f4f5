"""Slow model of `picker._core.runs`: a dictionary from node to parent and hashes. Nodes have the core's numbers."""

from collections.abc import Sequence


class Runs:
    def __init__(self) -> None:
        self.nodes: dict[int, tuple[int, list[int]]] = {}

    def add(self, index: int, parent: int, hashes: Sequence[int]) -> None:
        assert index not in self.nodes and index != 0
        self.nodes[index] = parent, list(hashes)

    def find(self, hash: int, parent: int) -> int:
        return next((index for index, (above, run) in self.nodes.items() if above == parent and run[0] == hash), 0)

    def common(self, index: int, hashes: Sequence[int]) -> int:
        run = self.nodes[index][1]
        shorter = min(len(run), len(hashes))
        return next((at for at in range(shorter) if run[at] != hashes[at]), shorter)

    def extend(self, index: int, hashes: Sequence[int]) -> None:
        self.nodes[index][1].extend(hashes)

    def cut(self, index: int, length: int) -> None:
        del self.nodes[index][1][length:]

    def split(self, index: int, at: int, upper: int) -> None:
        parent, run = self.nodes[index]
        self.add(upper, parent, run[:at])
        self.nodes[index] = upper, run[at:]

    def drop(self, index: int) -> None:
        del self.nodes[index]

    def childless(self) -> list[int]:
        parents = {parent for parent, _ in self.nodes.values()}
        return [index for index in self.nodes if index not in parents]
