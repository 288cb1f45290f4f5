"""What a routing policy of the lab is: it sees what a gateway could see, and chooses a replica for each request."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from picker.sim.asked import Asked
from picker.sim.engine import Engine, EngineMetrics

NEVER_S = float("inf")


@dataclass(frozen=True)
class Replica:
    """A model server as whoever set it up knows it."""

    slot: int
    gpu: str
    block_tokens: int
    cache_blocks: int
    prefill_tokens_per_s: float  # of a long prompt, alone
    max_batched_tokens: int = 8_192
    max_seqs: int = 256
    max_lora: int = 0

    @property
    def cache_tokens(self) -> int:
        return self.block_tokens * self.cache_blocks


@dataclass(frozen=True)
class Cluster:
    """What there is. `slots` go from 0 to `len(replicas) - 1` and stay what they are, also of those that have gone."""

    replicas: tuple[Replica, ...]
    key_tokens: int  # what a key of a request names
    seed: int
    engines: Sequence[Engine]  # for an oracle alone
    priorities: tuple[tuple[str, int], ...] = ()  # of the load's bands
    _names: dict[int, Sequence[Hashable]] = field(default_factory=dict, compare=False, repr=False)

    def cached_tokens(self, slot: int, asked: Asked) -> int:
        """Of its prompt, what the replica has in its cache at this moment.

        For an oracle, and as the exact index of a policy that is fed with the engines' cache events.
        """
        names = self.names(asked)
        return self.engines[slot].blocks.match(names, len(names)) * self.key_tokens

    def names(self, asked: Asked) -> Sequence[Hashable]:
        """The engines' names for the blocks of its prompt that can be found: one token at least is always computed."""
        names = self._names.get(asked.index)
        if names is None:
            self._names.clear()  # one request after the other is asked about, for each of many replicas
            names = asked.cacheable(self.key_tokens)[: (asked.prompt_tokens - 1) // self.key_tokens]
            self._names[asked.index] = names
        return names


class Policy(Protocol):
    """Chooses. Calls come in order of time, `choose` for each request once; all times in seconds."""

    scrape_s: float
    """How often it wants the metrics of each replica; `NEVER_S`: never."""

    def start(self, cluster: Cluster) -> None: ...

    def choose(self, asked: Asked, now_s: float) -> int | None:
        """The slot of a replica that is there, or None to reject the request."""

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        """The answer begins."""

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        """The answer has ended, and says how much of the prompt was cached."""

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        """The replica refused the request, or broke off."""

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        """Its metrics, as they were when it was asked for them."""

    def removed(self, slot: int, now_s: float) -> None:
        """Discovery says that the replica has gone."""

    def added(self, slot: int, now_s: float) -> None:
        """It is back, with nothing in its cache."""


class Plain:
    """A policy that looks at nothing that comes back; `self.slots` are those that are there, in order."""

    scrape_s = NEVER_S

    def start(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.slots = [replica.slot for replica in cluster.replicas]

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        pass

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        pass

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        pass

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        pass

    def removed(self, slot: int, now_s: float) -> None:
        self.slots.remove(slot)

    def added(self, slot: int, now_s: float) -> None:
        self.slots = sorted([*self.slots, slot])
