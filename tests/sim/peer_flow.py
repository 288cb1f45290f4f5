"""Other gateways for overload experiments: the reference picker's default algorithm as a model, and round robin.

The model follows llm-d-router 0.10: weighted scorers, flow control, switched on, and scraping;
its own words for what it does are in the comments. What it costs to run is left out.
"""

import random
from collections import deque
from collections.abc import Mapping

from picker.sim.asked import Asked
from picker.sim.engine import EngineMetrics
from picker.sim.gateway import EXPIRED, REFUSED, Sender
from picker.sim.policies.base import Cluster

STALE_S = 0.2  # metricsStalenessThreshold
QUEUE_THRESHOLD, KV_THRESHOLD = 5, 0.8  # utilization-detector
WEIGHTS = (2.0, 2.0, 3.0)  # queue-scorer, kv-cache-utilization-scorer, prefix-cache-scorer
TTL_S, SWEEP_S = 60.0, 1.0
MOST_IN_BAND = 5000
PREFIX_BLOCK_TOKENS = 64


class _Deaf:
    """A gateway that looks at nothing that comes back."""

    waiting = 0
    scrape_s = 1e9
    tick_s = 1.0

    def start(self, sender: Sender, cluster: Cluster) -> None:
        self.sender = sender
        self.key_tokens = cluster.key_tokens
        self.pods = [replica.slot for replica in cluster.replicas]

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        pass

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        pass

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        pass

    def broken(self, asked: Asked, slot: int, now_s: float) -> None:
        pass

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        pass

    def tick(self, now_s: float) -> None:
        pass

    def removed(self, slot: int, now_s: float) -> None:
        self.pods.remove(slot)

    def added(self, slot: int, now_s: float) -> None:
        self.pods.append(slot)


class RoundRobin(_Deaf):
    """Each endpoint in turn, and no queue: what waits, waits in the engines."""

    def __init__(self) -> None:
        self.next = 0

    def arrive(self, asked: Asked, now_s: float) -> None:
        self.next += 1
        self.sender.send(asked, self.pods[self.next % len(self.pods)])


class PeerFlow(_Deaf):
    """One processor that dispatches at most one request whenever one arrives, and every millisecond."""

    scrape_s = 0.05
    tick_s = 0.001

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.bands: dict[int, deque[tuple[float, Asked]]] = {}
        self.metrics: dict[int, EngineMetrics] = {}
        self.read_s: dict[int, float] = {}
        self.known: dict[int, set[str]] = {}
        self.swept_s = 0.0
        self.count = 0

    @property
    def waiting(self) -> int:  # type: ignore[override]
        return self.count

    def arrive(self, asked: Asked, now_s: float) -> None:
        band = self.bands.setdefault(asked.priority, deque())
        if len(band) >= MOST_IN_BAND:
            self.sender.refuse(asked, REFUSED)
            return
        band.append((now_s, asked))  # global strict fairness, first come first served: one queue for each band
        self.count += 1
        self.cycle(now_s)

    def tick(self, now_s: float) -> None:
        if now_s - self.swept_s >= SWEEP_S:
            self.swept_s = now_s
            self.sweep(now_s)
        self.cycle(now_s)

    def sweep(self, now_s: float) -> None:
        for band in self.bands.values():
            while band and now_s - band[0][0] >= TTL_S:
                self.count -= 1
                self.sender.refuse(band.popleft()[1], EXPIRED)

    def cycle(self, now_s: float) -> None:
        """The head of the highest band, if the pool as a whole is not saturated."""
        if self.saturation(now_s) >= 1.0:
            return
        for priority in sorted(self.bands, reverse=True):
            if self.bands[priority]:
                self.count -= 1
                asked = self.bands[priority].popleft()[1]
                slot = self.choose(asked)
                self.known.setdefault(slot, set()).add(asked.tenant)
                self.sender.send(asked, slot)
                return

    def saturation(self, now_s: float) -> float:
        """The mean over pods; metrics that are old or missing count as full."""
        return sum(self.fullness(pod, now_s) for pod in self.pods) / len(self.pods) if self.pods else 1.0

    def fullness(self, pod: int, now_s: float) -> float:
        metrics = self.metrics.get(pod)
        if metrics is None or now_s - self.read_s[pod] > STALE_S:
            return 1.0
        return max(metrics.waiting / QUEUE_THRESHOLD, metrics.kv_usage / KV_THRESHOLD)

    def choose(self, asked: Asked) -> int:
        """Scores as last scraped, however old; ties at random."""
        scores = self.scores(asked)
        best = max(scores.values())
        return self.random.choice([pod for pod in self.pods if scores[pod] == best])

    def scores(self, asked: Asked) -> Mapping[int, float]:
        queues = {pod: self.metrics[pod].waiting if pod in self.metrics else 0 for pod in self.pods}
        least, most = min(queues.values()), max(queues.values())
        system_tokens = len(asked.keys) * self.key_tokens
        shared = system_tokens // PREFIX_BLOCK_TOKENS * PREFIX_BLOCK_TOKENS / asked.prompt_tokens
        scores = {}
        for pod in self.pods:
            queue = (most - queues[pod]) / (most - least) if most > least else 1.0
            kv = 1.0 - (self.metrics[pod].kv_usage if pod in self.metrics else 0.0)
            prefix = shared if asked.tenant in self.known.get(pod, ()) else 0.0
            scores[pod] = WEIGHTS[0] * queue + WEIGHTS[1] * kv + WEIGHTS[2] * prefix
        return scores

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        self.metrics[slot], self.read_s[slot] = metrics, now_s
