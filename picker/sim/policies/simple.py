"""Policies that do not look at prompts: random, least request, power of two choices."""

import random

from picker.sim.asked import Asked
from picker.sim.policies.base import Plain
from picker.sim.policies.books import Booked, least


class Random(Plain):
    """Any replica, all equally likely (Envoy's `RANDOM`)."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)

    def choose(self, asked: Asked, now_s: float) -> int | None:
        return self.dice.choice(self.slots) if self.slots else None


class LeastRequest(Booked):
    """The replica with the fewest requests in flight; of several a random one (AIBrix `least-request`)."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        return self.book(asked, least(self.slots, self.requests.__getitem__, self.dice))


class PowerOfTwo(LeastRequest):
    """Two replicas at random, and of these the one with fewer requests in flight (Envoy's `LEAST_REQUEST`, and what
    sglang-router 0.3.2 and vllm-router 0.1.17 call power_of_two). Mitzenmacher 2001."""

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        pair = self.dice.sample(self.slots, min(2, len(self.slots)))
        return self.book(asked, least(pair, self.requests.__getitem__))
