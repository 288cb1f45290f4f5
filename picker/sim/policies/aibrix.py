"""AIBrix's `prefix-cache` routing with its defaults (v0.7).

Source: `pkg/plugins/gateway/algorithms/prefix_cache.go`, `pkg/utils/prefixcacheindexer/hash.go` of vllm-project/aibrix.
A table of 200,000 blocks of 128 characters, which forgets the block used longest ago, and any after 20 minutes, says
which pods were sent what. Of the pods that were sent any of the prompt the one with most of it gets the request, then
the one with the fewest requests in flight, if it has no more of these than a standard deviation above the mean; else,
and if nobody was sent any of it, the pod with the fewest. While the busiest has more than twice (mean + 1) requests,
and 8 more than the idlest, only the idlest are looked at. A token is taken for four characters.
"""

import random
import statistics
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least, names

BLOCK_TOKENS = 128 // 4
TABLE_BLOCKS = 200_000
FORGET_S = 20 * 60.0


class PrefixTable:
    """Who was sent each block, and when it was last sent. A key of a request stands for `key_blocks` blocks."""

    def __init__(self, key_blocks: float) -> None:
        self.most = max(int(TABLE_BLOCKS / key_blocks), 1)
        self.sent: OrderedDict[Hashable, tuple[set[int], float]] = OrderedDict()

    def match(self, keys: Sequence[Hashable], slots: Sequence[int], now_s: float) -> dict[int, int]:
        """Percent of the prompt that each of these slots was sent; up to the first block that none of them was."""
        percent: dict[int, int] = {}
        for depth, key in enumerate(keys, 1):
            holders, at_s = self.sent.get(key, (set(), now_s))
            found = holders.intersection(slots) if now_s - at_s < FORGET_S else ()
            if not found:
                break
            percent.update(dict.fromkeys(found, depth * 100 // len(keys)))
        return percent

    def add(self, keys: Sequence[Hashable], slot: int, now_s: float) -> None:
        for key in keys:
            holders, at_s = self.sent.pop(key, (set(), now_s))
            if now_s - at_s >= FORGET_S:
                holders = set()
            holders.add(slot)
            self.sent[key] = holders, now_s
        while len(self.sent) > self.most:
            self.sent.popitem(last=False)


class AibrixPrefixCache(Booked):
    """See the module."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.table = PrefixTable(cluster.key_tokens / BLOCK_TOKENS)

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        keys = names(asked)
        slot = self.matched(self.table.match(keys, self.looked_at(), now_s))
        if slot is None:
            slot = least(self.slots, self.requests.__getitem__, self.dice)
        self.table.add(keys, slot, now_s)
        return self.book(asked, slot)

    def looked_at(self) -> Sequence[int]:
        counts = [self.requests[slot] for slot in self.slots]
        if max(counts) > 2 * (statistics.fmean(counts) + 1) and max(counts) - min(counts) >= 8:
            return [slot for slot in self.slots if self.requests[slot] == min(counts)]
        return self.slots

    def matched(self, percent: dict[int, int]) -> int | None:
        """The best of those that are not too busy; None if all of them are."""
        counts = [self.requests[slot] for slot in self.slots]
        most = statistics.fmean(counts) + (statistics.stdev(counts) if len(counts) > 1 else 0.0)
        able = [slot for slot in percent if self.requests[slot] <= most]
        return min(able, key=lambda slot: (-percent[slot], self.requests[slot], self.dice.random()), default=None)

    def removed(self, slot: int, now_s: float) -> None:
        super().removed(slot, now_s)
        for holders, _ in self.table.sent.values():
            holders.discard(slot)
