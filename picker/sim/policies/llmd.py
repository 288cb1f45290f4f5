"""Policies of the llm-d router: the weighted blend its binary starts with, and the sticky rule its guides use.

Source: llm-d/llm-d-router 0.10, `pkg/epp/framework/plugins/`: `scheduling/filter/prefixcacheaffinity`,
`scheduling/scorer/{tokenload,activerequest,prefix,queuedepth,kvcacheutilization}`, `requestcontrol/dataproducer/
{approximateprefix,inflightload}`. All look prompts up in the approximate index of that router: for each endpoint an LRU
of what it was sent, of as many blocks of 64 tokens as its cache holds, prompts up to 131,072 tokens. Best score wins,
of several a random one.
"""

import random
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.engine import EngineMetrics
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least, names

SCRAPE_S = 0.05
BLOCK_TOKENS = 64
MAX_PREFIX_TOKENS = 131_072


class ApproximateIndex:
    """What each endpoint was sent, least recently sent out first when it is more than its cache holds.

    As in the original a match counts blocks wherever they are in the prompt, up to the first that no endpoint has, and
    the beginning of a prompt is older than its end.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.key_tokens = cluster.key_tokens
        self.block_tokens = BLOCK_TOKENS
        self.capacity = [replica.cache_tokens / BLOCK_TOKENS for replica in cluster.replicas]
        self.sent: list[OrderedDict[Hashable, float]] = [OrderedDict() for _ in cluster.replicas]
        self.blocks = [0.0] * len(cluster.replicas)
        self.holders: dict[Hashable, set[int]] = {}

    def total_blocks(self, asked: Asked) -> int:
        """Of the prompt, as far as the index looks; the last may be a part of one."""
        return -(-min(asked.prompt_tokens, MAX_PREFIX_TOKENS) // self.block_tokens)

    def weighed(self, asked: Asked) -> list[tuple[Hashable, float]]:
        """Each key that is looked at, and how many blocks it stands for."""
        looked = min(asked.prompt_tokens, MAX_PREFIX_TOKENS)
        keys = names(asked)[: -(-looked // self.key_tokens)]
        whole = self.key_tokens / self.block_tokens
        last = -(-(looked - (len(keys) - 1) * self.key_tokens) // self.block_tokens)
        return [(key, whole if place < len(keys) - 1 else min(whole, last)) for place, key in enumerate(keys)]

    def match(self, asked: Asked) -> list[float]:
        """Blocks that each endpoint has."""
        found = [0.0] * len(self.sent)
        for key, blocks in self.weighed(asked):
            holders = self.holders.get(key)
            if not holders:
                break
            for slot in holders:
                found[slot] += blocks
        return found

    def add(self, asked: Asked, slot: int) -> None:
        sent = self.sent[slot]
        for key, blocks in self.weighed(asked):
            if key in sent:
                sent.move_to_end(key)
                continue
            sent[key] = blocks
            self.blocks[slot] += blocks
            self.holders.setdefault(key, set()).add(slot)
        while self.blocks[slot] > self.capacity[slot]:
            self._drop(slot)

    def forget(self, slot: int) -> None:
        while self.sent[slot]:
            self._drop(slot)

    def _drop(self, slot: int) -> None:
        key, blocks = self.sent[slot].popitem(last=False)
        self.blocks[slot] -= blocks
        self.holders[key].discard(slot)
        if not self.holders[key]:
            del self.holders[key]


class _LlmD(Booked):
    """What both have in common."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.index = ApproximateIndex(cluster)

    def removed(self, slot: int, now_s: float) -> None:
        super().removed(slot, now_s)
        self.index.forget(slot)


class LlmDBlend(_LlmD):
    """Three times the share of the prompt's blocks, plus twice the free share of KV cache, plus twice the place between
    the longest and the shortest queue. Queues and cache use are scraped every 50 ms; what was sent since counts not.
    """

    scrape_s = SCRAPE_S

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.waiting = [0] * len(cluster.replicas)
        self.kv_usage = [0.0] * len(cluster.replicas)

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        scores = self.scores(asked)
        slot = least(self.slots, lambda slot: -scores[slot], self.dice)
        self.index.add(asked, slot)
        return self.book(asked, slot)

    def scores(self, asked: Asked) -> dict[int, float]:
        match, total = self.index.match(asked), self.index.total_blocks(asked)
        longest = max(self.waiting[slot] for slot in self.slots)
        spread = longest - min(self.waiting[slot] for slot in self.slots)
        return {
            slot: 3 * match[slot] / total
            + 2 * (1 - self.kv_usage[slot])
            + 2 * ((longest - self.waiting[slot]) / spread if spread else 1.0)
            for slot in self.slots
        }

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        self.waiting[slot] = metrics.waiting
        self.kv_usage[slot] = metrics.kv_usage


class LlmDSticky(_LlmD):
    """Sticky until saturated: endpoints with 0.8 of the prompt's blocks and no others, unless the best of them would
    have its first token 18 s later than the best of the rest, by uncached tokens in flight over peak prefill
    throughput. Then the fewest uncached tokens, those of this request among them (`token-load-scorer`).

    `prefill_tokens_per_s`: None for what the calibration recipe would measure here, one figure for the whole pool.
    """

    affinity = 0.8
    max_penalty_s = 18.0
    most_tokens = 4_194_304  # at which the score is 0

    def __init__(self, seed: int = 0, prefill_tokens_per_s: float | None = None) -> None:
        super().__init__(seed)
        self.prefill_tokens_per_s = prefill_tokens_per_s

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        measured = [replica.prefill_tokens_per_s for replica in cluster.replicas]
        self.rate = self.prefill_tokens_per_s or sum(measured) / len(measured)

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        match = self.index.match(asked)
        uncached = {slot: self.uncached(asked, match[slot]) for slot in self.slots}
        slot = least(self.keep(asked, match), lambda slot: self.load(slot, uncached[slot]), self.dice)
        self.index.add(asked, slot)
        return self.book(asked, slot, round(uncached[slot]))

    def uncached(self, asked: Asked, match_blocks: float) -> float:
        block_tokens = self.index.block_tokens
        total = self.index.total_blocks(asked)
        return (total - match_blocks) * block_tokens + max(asked.prompt_tokens - total * block_tokens, 0)

    def load(self, slot: int, uncached_tokens: float) -> float:
        return min(self.prefill_tokens[slot] + uncached_tokens, self.most_tokens)

    def keep(self, asked: Asked, match: Sequence[float]) -> Sequence[int]:
        """The candidates: the sticky ones, or all."""
        total = self.index.total_blocks(asked)
        sticky = [slot for slot in self.slots if match[slot] >= self.affinity * total]
        rest = [slot for slot in self.slots if match[slot] < self.affinity * total]
        if not sticky or not rest:
            return self.slots
        penalty = min(self.prefill_tokens[slot] for slot in sticky) - min(self.prefill_tokens[slot] for slot in rest)
        return self.slots if penalty > self.max_penalty_s * self.rate else sticky


class LlmDStickyRequests(LlmDSticky):
    """The same filter with `active-request-scorer`, which llm-d advises where answers are the load: the candidate with
    the fewest requests in flight."""

    def load(self, slot: int, uncached_tokens: float) -> float:
        return self.requests[slot]
