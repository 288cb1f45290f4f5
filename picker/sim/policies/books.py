"""What a router knows of the load by its own books: what it has sent, and what has not come back yet."""

import random
from collections.abc import Callable, Hashable, Sequence

from picker.sim.asked import Asked
from picker.sim.policies.base import Cluster, Plain


class Booked(Plain):
    """Counts requests in flight, and the prompt tokens to compute of those whose answer has not begun."""

    def start(self, cluster: Cluster) -> None:
        super().start(cluster)
        self.requests = [0] * len(cluster.replicas)
        self.prefill_tokens = [0] * len(cluster.replicas)
        self._prefilling: dict[int, int] = {}

    def book(self, asked: Asked, slot: int, prefill_tokens: int = 0) -> int:
        """The request goes to `slot`, which is returned."""
        self.requests[slot] += 1
        self.prefill_tokens[slot] += prefill_tokens
        self._prefilling[asked.index] = prefill_tokens
        return slot

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        self.prefill_tokens[slot] -= self._prefilling.pop(asked.index, 0)

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        self.ended(asked, slot, now_s)

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        self.ended(asked, slot, now_s)

    def ended(self, asked: Asked, slot: int, now_s: float) -> None:
        """By whatever cause: nothing of it is on the books any more."""
        Booked.first_token(self, asked, slot, now_s)
        self.requests[slot] -= 1


def least(slots: Sequence[int], cost: Callable[[int], float], dice: random.Random | None = None) -> int:
    """The slot with the least cost; of several a random one, or, without dice, the first."""
    costs = [cost(slot) for slot in slots]
    lowest = min(costs)
    if dice is None:
        return slots[costs.index(lowest)]
    return dice.choice([slot for slot, value in zip(slots, costs, strict=True) if value == lowest])


def names(asked: Asked) -> Sequence[Hashable]:
    """The keys of its prompt as an index knows them: each adapter has keys of its own."""
    return [(asked.lora, key) for key in asked.keys] if asked.lora else asked.keys
