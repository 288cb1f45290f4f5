"""The KV-cache blocks of a simulated engine: a prefix cache with reference counts and LRU eviction.

A block is *private* (counted, without a name: it holds part of a prompt not computed yet, or output) or *published*
(named by its key and findable). A published block is referenced by running requests or idle; only idle blocks are
evicted, least recently used first. Keys are chained: equal keys mean equal prefixes, so a key names its depth as well.

Invariant: private + published blocks <= capacity. Every operation is O(blocks named in it).
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import islice


class BlockPool:
    """`capacity` blocks, all free at first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.evictions = 0
        self._private = 0
        self._references: dict[Hashable, int] = {}
        self._idle: OrderedDict[Hashable, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Blocks that cannot be given away: private ones and published ones that are referenced."""
        return self._private + len(self._references) - len(self._idle)

    @property
    def published(self) -> int:
        """Blocks that a new request could find."""
        return len(self._references)

    def match(self, keys: Sequence[Hashable], limit: int) -> int:
        """How many of the first `limit` keys are published, counted up to the first that is not."""
        found = 0
        for key in islice(keys, limit):
            if key not in self._references:
                break
            found += 1
        return found

    def reserve(self, shared: Sequence[Hashable], private: int) -> bool:
        """Takes a reference on each of the published blocks `shared` and `private` fresh blocks, or nothing at all.

        Evicts idle blocks as needed. False when even that does not make enough room.
        """
        idle_shared = sum(key in self._idle for key in shared)
        if self.used + idle_shared + private > self.capacity:
            return False
        for key in shared:
            self._references[key] += 1
            self._idle.pop(key, None)
        self._private += private
        while self._private + len(self._references) > self.capacity:
            evicted, _ = self._idle.popitem(last=False)
            del self._references[evicted]
            self.evictions += 1
        return True

    def publish(self, key: Hashable) -> bool:
        """Names one private block. False, and the block stays private, when another block has that key already."""
        if key in self._references:
            return False
        self._references[key] = 1
        self._private -= 1
        return True

    def release(self, shared: Sequence[Hashable], private: int) -> None:
        """Gives back what `reserve` and `publish` made the caller's. The deepest block becomes the first to go."""
        self._private -= private
        for key in reversed(shared):
            self._references[key] -= 1
            if self._references[key] == 0:
                self._idle[key] = None

    def forget(self) -> bool:
        """Drops every published block. False, and nothing is dropped, while any block is in use."""
        if self.used:
            return False
        self._references.clear()
        self._idle.clear()
        return True

    def _check(self) -> None:
        """Raises AssertionError unless every invariant of this module holds (tests call it after each action)."""
        assert 0 <= self._private  # noqa: S101
        assert self._private + len(self._references) <= self.capacity  # noqa: S101
        assert {key for key, count in self._references.items() if count == 0} == set(self._idle)  # noqa: S101
        assert all(count >= 0 for count in self._references.values())  # noqa: S101
