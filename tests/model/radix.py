"""Slow model of `picker._core.radix`: per endpoint a plain dictionary of the blocks it holds.

There are no nodes here. Each block carries when it was last touched and how deep it lies; evicted is, one at a time,
the block touched longest ago, and of those (they lie on one path) the deepest.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    touched: int
    depth: int


class Radix:
    def __init__(self, width: int, *, capacity: int, max_blocks: int) -> None:
        self.default = capacity
        self.max_blocks = max_blocks
        self.clock = 0
        self.blocks: list[dict[int, Block]] = []
        self.capacity: list[int] = []
        self.widen(width)

    def match(self, hashes: Sequence[int]) -> list[int]:
        return [self.leading(hashes, slot) for slot in range(len(self.blocks))]

    def leading(self, hashes: Sequence[int], slot: int) -> int:
        missing = (depth for depth, block in enumerate(hashes) if block not in self.blocks[slot])
        return next(missing, len(hashes))

    def insert(self, hashes: Sequence[int], slot: int) -> None:
        self.clock += 1
        wanted = hashes[: self.capacity[slot]]
        known = self.leading(wanted, slot)
        self.touch(wanted[:known], slot)
        while self.over(slot, len(wanted) - known):
            if self.held(slot) > known:
                self.evict(slot)
            else:
                wanted = wanted[:-1]
        self.touch(wanted, slot)

    def touch(self, hashes: Sequence[int], slot: int) -> None:
        self.blocks[slot].update((block, Block(self.clock, depth)) for depth, block in enumerate(hashes))

    def over(self, slot: int, fresh: int) -> bool:
        return self.held(slot) + fresh > self.capacity[slot] or (fresh > 0 and len(self) + fresh > self.max_blocks)

    def evict(self, slot: int) -> None:
        blocks = self.blocks[slot]
        del blocks[min(blocks, key=lambda block: (blocks[block].touched, -blocks[block].depth))]

    def forget(self, slot: int) -> None:
        self.blocks[slot].clear()

    def set_capacity(self, slot: int, blocks: int) -> None:
        self.capacity[slot] = blocks
        while self.over(slot, 0):
            self.evict(slot)

    def held(self, slot: int) -> int:
        return len(self.blocks[slot])

    def widen(self, width: int) -> None:
        while len(self.blocks) < width:
            self.blocks.append({})
            self.capacity.append(self.default)

    def __len__(self) -> int:
        return sum(map(len, self.blocks))
