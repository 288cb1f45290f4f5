"""The cost function of NVIDIA Dynamo's KV router, version 1.6.1.

Source: `lib/kv-router/src/scheduling/selector/{mod,default}.rs` and `sequences/` of ai-dynamo/dynamo; the logits that
the wheel `ai-dynamo-runtime` 1.6.1 logs are those of `Dynamo.cost`. Per worker, in blocks, the lowest wins:

    prefill = max(active prefill + prompt - credit * overlap, 0)
    cost = prefill_load_scale * prefill + active blocks + prompt blocks that are not among them

The overlap comes from KV events (the default); here they take no time, as in Dynamo's own trace replay. The load is
the router's own: uncached prompt tokens until the first token, and the distinct prompt blocks of requests until they
end.
Ties: at random. Left out: the router's queue, which holds requests once every worker has 16 times
`max_num_batched_tokens` to prefill (`router_queue_threshold`), tiers of cache, and the softmax (temperature 0).
"""

import random
from collections.abc import Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least, names

BLOCK_TOKENS = 64
"""Of the engines that it routes to here; a cost is in blocks, so that it hardly matters how large they are."""


class ActiveBlocks:
    """The distinct prompt blocks of the requests of one worker; those that are not whole, or have no key, count once
    for each request."""

    def __init__(self, key_blocks: float) -> None:
        self.key_blocks = key_blocks
        self.blocks = 0.0
        self._references: dict[Hashable, int] = {}

    def missing(self, keys: Sequence[Hashable], private: float) -> float:
        """Blocks that a request would add: its prompt without the prefix that is active already."""
        depth = next((depth for depth, key in enumerate(keys) if key not in self._references), len(keys))
        return (len(keys) - depth) * self.key_blocks + private

    def add(self, keys: Sequence[Hashable], private: float) -> None:
        before = len(self._references)
        for key in keys:
            self._references[key] = self._references.get(key, 0) + 1
        self.blocks += (len(self._references) - before) * self.key_blocks + private

    def remove(self, keys: Sequence[Hashable], private: float) -> None:
        before = len(self._references)
        for key in keys:
            self._references[key] -= 1
            if not self._references[key]:
                del self._references[key]
        self.blocks -= (before - len(self._references)) * self.key_blocks + private


class Dynamo(Booked):
    """See the module."""

    def __init__(self, seed: int = 0, *, prefill_load_scale: float = 1.0, overlap_score_credit: float = 1.0) -> None:
        self.dice = random.Random(seed)
        self.prefill_load_scale = prefill_load_scale
        self.overlap_score_credit = overlap_score_credit

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.block_tokens = BLOCK_TOKENS
        self.active = [ActiveBlocks(cluster.key_tokens / self.block_tokens) for _ in cluster.replicas]
        self._held: dict[int, tuple[Sequence[Hashable], float]] = {}

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        keys, private = self.split(asked)
        cached = {slot: self.cluster.cached_tokens(slot, asked) for slot in self.slots}
        slot = least(self.slots, lambda slot: self.cost(asked, slot, cached[slot], keys, private), self.dice)
        self._held[asked.index] = keys, private
        self.active[slot].add(keys, private)
        return self.book(asked, slot, asked.prompt_tokens - cached[slot])

    def split(self, asked: Asked) -> tuple[Sequence[Hashable], float]:
        """The whole keys of a prompt, and how many whole blocks there are behind them."""
        whole = min(asked.prompt_tokens // self.cluster.key_tokens, len(asked.keys))
        private = asked.prompt_tokens // self.block_tokens - whole * self.cluster.key_tokens / self.block_tokens
        return names(asked)[:whole], max(private, 0.0)

    def cost(self, asked: Asked, slot: int, cached_tokens: int, keys: Sequence[Hashable], private: float) -> float:
        prompt = self.prefill_tokens[slot] + asked.prompt_tokens
        prefill = max(prompt - self.overlap_score_credit * cached_tokens, 0.0) / self.block_tokens
        active = self.active[slot]
        return self.prefill_load_scale * prefill + active.blocks + active.missing(keys, private)

    def ended(self, asked: Asked, slot: int, now_s: float) -> None:
        super().ended(asked, slot, now_s)
        self.active[slot].remove(*self._held.pop(asked.index))


def tuned(seed: int = 0) -> Dynamo:
    """The best of nine configurations on the Mooncake conversation trace, found with Dynamo's own replay."""
    return Dynamo(seed, prefill_load_scale=8.0, overlap_score_credit=1.5)
