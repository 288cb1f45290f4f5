"""Each replica in turn."""

from picker.sim.asked import Asked
from picker.sim.policies.base import Plain


class RoundRobin(Plain):
    """Each replica in turn, whatever it does."""

    def __init__(self, seed: int = 0) -> None:
        self.turns = 0

    def choose(self, asked: Asked, now_s: float) -> int | None:
        if not self.slots:
            return None
        slot = self.slots[self.turns % len(self.slots)]
        self.turns += 1
        return slot
