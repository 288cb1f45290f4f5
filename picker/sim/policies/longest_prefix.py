"""The naive affinity policy, here as a warning."""

from collections.abc import Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster
from picker.sim.policies.books import Booked, least, names


class LongestPrefix(Booked):
    """Whoever was sent most of the prompt, whatever it has to do; of several the one with the fewest in flight.

    It remembers everything. Where all requests begin alike it sends all of them to one replica.
    """

    def __init__(self, seed: int = 0) -> None:
        pass

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.sent: list[set[Hashable]] = [set() for _ in cluster.replicas]

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        keys = names(asked)
        depths = {slot: self.depth(slot, keys) for slot in self.slots}
        deepest = max(depths.values())
        slot = least([slot for slot in self.slots if depths[slot] == deepest], self.requests.__getitem__)
        self.sent[slot].update(keys)
        return self.book(asked, slot)

    def depth(self, slot: int, keys: Sequence[Hashable]) -> int:
        sent = self.sent[slot]
        return next((depth for depth, key in enumerate(keys) if key not in sent), len(keys))

    def removed(self, slot: int, now_s: float) -> None:
        super().removed(slot, now_s)
        self.sent[slot].clear()
