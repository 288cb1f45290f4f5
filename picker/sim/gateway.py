"""What stands between clients and replicas in the lab: what a gateway is told, what it can do, and one for a policy."""

from typing import Protocol

from picker.sim.asked import Asked
from picker.sim.engine import EngineMetrics
from picker.sim.policies.base import Cluster, Policy

SERVED, REFUSED, EXPIRED, FAILED = "served", "refused", "expired", "failed"
"""What can become of a request; it expires when it has waited at the gateway for too long."""


class Sender(Protocol):
    """What a gateway can do."""

    def send(self, asked: Asked, slot: int) -> None: ...

    def refuse(self, asked: Asked, outcome: str) -> None: ...


class Gateway(Protocol):
    """Decides who goes where and when. Called in order of time; it may answer any call by sends and refusals."""

    scrape_s: float  # how often it reads the metrics of a replica
    tick_s: float  # how often `tick` is called while somebody waits

    @property
    def waiting(self) -> int:
        """Requests that it holds."""

    def start(self, sender: Sender, cluster: Cluster) -> None: ...

    def arrive(self, asked: Asked, now_s: float) -> None: ...

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None: ...

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None: ...

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        """The replica refused the connection, or broke it before the answer."""

    def broken(self, asked: Asked, slot: int, now_s: float) -> None:
        """The replica broke the connection amid the answer."""

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None: ...

    def tick(self, now_s: float) -> None: ...

    def removed(self, slot: int, now_s: float) -> None:
        """Discovery says that the replica has gone."""

    def added(self, slot: int, now_s: float) -> None:
        """It is back, with nothing in its cache."""


class PolicyGateway:
    """Asks a policy about each request as it arrives: nobody waits here."""

    waiting = 0
    tick_s = 1.0

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.scrape_s = policy.scrape_s

    def start(self, sender: Sender, cluster: Cluster) -> None:
        self.sender = sender
        self.replicas = len(cluster.replicas)
        self.policy.start(cluster)

    def arrive(self, asked: Asked, now_s: float) -> None:
        slot = self.policy.choose(asked, now_s)
        if slot is None:
            self.sender.refuse(asked, REFUSED)
        elif 0 <= slot < self.replicas:
            self.sender.send(asked, slot)
        else:
            raise ValueError(f"{type(self.policy).__name__} chose slot {slot} of {self.replicas}")

    def first_token(self, asked: Asked, slot: int, now_s: float) -> None:
        self.policy.first_token(asked, slot, now_s)

    def finished(self, asked: Asked, slot: int, now_s: float, cached_tokens: int) -> None:
        self.policy.finished(asked, slot, now_s, cached_tokens)

    def failed(self, asked: Asked, slot: int, now_s: float) -> None:
        self.policy.failed(asked, slot, now_s)

    def broken(self, asked: Asked, slot: int, now_s: float) -> None:
        self.policy.failed(asked, slot, now_s)

    def scraped(self, slot: int, metrics: EngineMetrics, now_s: float) -> None:
        self.policy.scraped(slot, metrics, now_s)

    def tick(self, now_s: float) -> None:
        pass

    def removed(self, slot: int, now_s: float) -> None:
        self.policy.removed(slot, now_s)

    def added(self, slot: int, now_s: float) -> None:
        self.policy.added(slot, now_s)
