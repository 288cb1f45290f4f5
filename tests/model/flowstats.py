"""Slow model of `picker._core.flowstats`: everything that happened, in a list."""

from collections import Counter
from collections.abc import Iterable

BANDS = 63
"""Priorities told apart."""

AT_THE_DOOR = {
    "Saturated": "RejectedCapacity",
    "QueueFull": "RejectedCapacity",
    "ServiceUnavailable": "RejectedNoEndpoints",
    "AdmissionDenied": "",
    "QuotaExceeded": "",
}
AFTER_A_WAIT = {
    "None": "Dispatched",
    "QueueTimeout": "EvictedTTL",
    "ServiceUnavailable": "EvictedNoEndpoints",
    "ContextCancelled": "EvictedContextCancelled",
    "Canceled": "EvictedContextCancelled",
}


class FlowStats:
    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.drops: dict[str, Counter[str]] = {}
        self.waits: dict[str, list[float]] = {}
        self.waiting: list[int] = []

    def band(self, priority: int) -> str:
        name = str(priority)
        if name not in self.outcomes and len(self.outcomes.keys() - {"other"}) >= BANDS:
            name = "other"
        for counts in (self.outcomes, self.drops):
            counts.setdefault(name, Counter())
        self.waits.setdefault(name, [])
        return name

    def passed(self, priority: int) -> None:
        band = self.band(priority)
        self.outcomes[band]["Dispatched"] += 1
        self.waits[band].append(0.0)

    def queued(self, priority: int, nbytes: int) -> None:
        self.band(priority)
        self.waiting.append(nbytes)

    def refused(self, priority: int, failure: str) -> None:
        band = self.band(priority)
        self.drops[band][failure] += 1
        if outcome := AT_THE_DOOR.get(failure, "RejectedOther"):
            self.outcomes[band][outcome] += 1

    def left(self, priority: int, nbytes: int, failure: str, waited_ns: int) -> None:
        band = self.band(priority)
        self.waiting.remove(nbytes)
        self.outcomes[band][AFTER_A_WAIT.get(failure, "EvictedOther")] += 1
        if failure == "None":
            self.waits[band].append(waited_ns * 1e-9)
        else:
            self.drops[band][failure] += 1

    def evicted(self, priority: int) -> None:
        self.drops[self.band(priority)]["Evicted"] += 1


def plain(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {name: count for name, count in counts if count}
