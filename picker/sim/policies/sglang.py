"""The cache-aware policy of sglang-router 0.3.2 (now SMG), with the defaults of its command line.

Source: `sgl-model-gateway/src/policies/{cache_aware,tree}.rs` of sgl-project/sglang. One radix tree over the text of
all prompts says which workers were sent what. While the requests in flight differ by more than 64 and by half, the
worker with the fewest gets the request; else the one that was first sent the longest known prefix, if that is more than
0.3 of the prompt; else the one with the fewest requests in flight, and of several always the first. Every minute the
leaves used longest ago are dropped from each worker that has more than 64 Mi characters; a token is taken for four.
"""

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least, names

CHARACTERS_PER_TOKEN = 4


@dataclass(slots=True, eq=False)
class _Node:
    """A block of text. `used` says when each worker that has it last used it, if it was the end of a prompt then."""

    tokens: int
    parent: "_Node | None"
    first: int
    used: dict[int, int] = field(default_factory=dict)
    below: dict[int, int] = field(default_factory=dict)  # children that a worker has


class TextTree:
    """The text that each worker was sent, by blocks of one key each. Not thread-safe; bounded by `evict`."""

    def __init__(self) -> None:
        self.nodes: dict[Hashable, _Node] = {}
        self.tokens: dict[int, int] = {}  # of each worker
        self._epoch = 0

    def insert(self, keys: Sequence[Hashable], tokens: Sequence[int], slot: int) -> None:
        node: _Node | None = None
        new = False
        epoch = self._tick() if keys else 0
        for key, length in zip(keys, tokens, strict=True):
            parent, node = node, self.nodes.get(key)
            new = node is None
            if node is None:
                node = self.nodes[key] = _Node(length, parent, slot)
            if slot not in node.used:
                node.used[slot] = epoch if new else 0
                self.tokens[slot] = self.tokens.get(slot, 0) + node.tokens
                if parent is not None:
                    parent.below[slot] = parent.below.get(slot, 0) + 1
        if node is not None and not new:
            node.used[slot] = epoch

    def match(self, keys: Sequence[Hashable]) -> tuple[int, int]:
        """Tokens of the longest known prefix, and who was sent it first (-1: nobody)."""
        matched, last = 0, None
        for key in keys:
            node = self.nodes.get(key)
            if node is None:
                break
            matched, last = matched + node.tokens, node
        epoch = self._tick()
        if last is None:
            return 0, -1
        if last.first not in last.used:
            last.first = next(iter(last.used))
        if epoch % 8 == 0:
            last.used[last.first] = epoch
        return matched, last.first

    def evict(self, most_tokens: int) -> None:
        """Drops leaves of each worker that has more, those used longest ago first."""
        for slot in [slot for slot, tokens in self.tokens.items() if tokens > most_tokens]:
            self._shrink(slot, most_tokens)

    def forget(self, slot: int) -> None:
        """The worker has gone."""
        self._shrink(slot, 0)
        self.tokens.pop(slot, None)

    def _shrink(self, slot: int, most_tokens: int) -> None:
        leaves = [
            (node.used[slot], order, key, node)
            for order, (key, node) in enumerate(self.nodes.items())
            if slot in node.used and not node.below.get(slot)
        ]
        keys = {id(node): key for key, node in self.nodes.items()}
        heapq.heapify(leaves)
        order = len(self.nodes)
        while leaves and self.tokens[slot] > most_tokens:
            _, _, key, node = heapq.heappop(leaves)
            self.tokens[slot] -= node.tokens
            del node.used[slot]
            if not node.used:
                del self.nodes[key]
            parent = node.parent
            if parent is not None:
                parent.below[slot] -= 1
                if not parent.below[slot]:
                    order += 1
                    heapq.heappush(leaves, (parent.used[slot], order, keys[id(parent)], parent))

    def _tick(self) -> int:
        self._epoch += 1
        return self._epoch


class SglangCacheAware(Booked):
    """See the module."""

    cache_threshold = 0.3
    balance_abs_threshold = 64
    balance_rel_threshold = 1.5
    eviction_interval_s = 60.0
    max_tree_characters = 67_108_864

    def __init__(self, seed: int = 0) -> None:
        self.tree = TextTree()
        self.evict_at_s = self.eviction_interval_s

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.key_tokens = cluster.key_tokens

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        while now_s >= self.evict_at_s:
            self.tree.evict(self.max_tree_characters // CHARACTERS_PER_TOKEN)
            self.evict_at_s += self.eviction_interval_s
        keys = names(asked)
        slot = self.pick(asked, keys)
        lengths = [min(self.key_tokens, asked.prompt_tokens - begin * self.key_tokens) for begin in range(len(keys))]
        self.tree.insert(keys, lengths, slot)
        return self.book(asked, slot)

    def pick(self, asked: Asked, keys: Sequence[Hashable]) -> int:
        loads = [self.requests[slot] for slot in self.slots]
        gap = max(loads) - min(loads)
        idlest = least(self.slots, self.requests.__getitem__)
        if gap > self.balance_abs_threshold and max(loads) > self.balance_rel_threshold * min(loads):
            return idlest
        tokens, slot = self.tree.match(keys)
        return slot if tokens > self.cache_threshold * asked.prompt_tokens and slot in self.slots else idlest

    def removed(self, slot: int, now_s: float) -> None:
        super().removed(slot, now_s)
        self.tree.forget(slot)
