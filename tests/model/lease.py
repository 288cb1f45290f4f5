"""Several candidates, an API server that keeps one Lease, and a network that delays, loses and reorders: step by step.

Time is the world's, in ns; each candidate has a clock of its own that began elsewhere and runs a little fast or slow.
"""

import datetime
from dataclasses import dataclass, field
from typing import Any

from picker.kube.lease import Action, Candidate, Terms, lease_from

SECOND = 1_000_000_000
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
TERMS = Terms(lease_s=15, renew_s=10, retry_s=2)
NAME, NAMESPACE = "epp", "default"


class Conflict(Exception):
    """409, or 404 for an update."""


class Server:
    """One Lease with optimistic concurrency, and everything that happened to it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.events: list[tuple[str, dict[str, Any]]] = []

    def _store(self, kind: str, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        kept = {**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self.version)}}
        self.lease = None if kind == "DELETED" else kept
        self.events.append((kind, kept))
        return kept

    def create(self, lease: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise Conflict
        return self._store("ADDED", lease)

    def update(self, lease: dict[str, Any]) -> dict[str, Any]:
        if self.lease is None or self.lease["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
            raise Conflict
        return self._store("MODIFIED", lease)

    def label(self) -> None:
        """Somebody changes what is no business of the candidates."""
        if self.lease is not None:
            labels = {"touched": str(self.version)}
            self._store("MODIFIED", {**self.lease, "metadata": {**self.lease["metadata"], "labels": labels}})

    def delete(self) -> None:
        if self.lease is not None:
            self._store("DELETED", self.lease)

    @property
    def is_deleted(self) -> bool:
        return self.lease is None and bool(self.events)

    @property
    def holder(self) -> str:
        return str(self.lease["spec"].get("holderIdentity", "")) if self.lease else ""


@dataclass
class Request:
    """Of one candidate, on its way there or back."""

    action: Action | None  # None: a resignation
    body: Any
    sent_ns: int
    notices: int
    is_handled: bool = False
    answer: Any = None


@dataclass
class Replica:
    """A candidate and the data plane it tells: that one goes on by what it was told last."""

    candidate: Candidate
    offset_ns: int
    rate: float
    plane_until_ns: int = 0
    request: Request | None = None
    watch_at: int | None = None  # of the server's events
    is_running: bool = True
    is_released: bool = False
    lives: int = 0
    late: list[Request] = field(default_factory=list)


def candidate(identity: str) -> Candidate:
    return Candidate(identity, TERMS, name=NAME, namespace=NAMESPACE, jitter=lambda: 0.5)


class World:
    """Everything, and what may happen in it."""

    def __init__(self, clocks: list[tuple[int, float]]) -> None:
        self.now_ns = 0
        self.server = Server()
        self.replicas = [
            Replica(candidate(f"replica-{index}"), offset_ns, rate) for index, (offset_ns, rate) in enumerate(clocks)
        ]

    def clock(self, replica: Replica) -> int:
        return replica.offset_ns + int(self.now_ns * replica.rate)

    def leaders(self) -> list[str]:
        return [each.candidate.identity for each in self.replicas if each.plane_until_ns > self.clock(each)]

    # What a replica does.

    def act(self, replica: Replica) -> None:
        """Sends what is due."""
        if not replica.is_running or replica.is_released or replica.request is not None:
            return
        action = replica.candidate.step(self.clock(replica))
        if action is not Action.WAIT:
            body = replica.candidate.claim(EPOCH + datetime.timedelta(microseconds=self.now_ns // 1000))
            self._send(replica, action, body)

    def _send(self, replica: Replica, action: Action | None, body: Any) -> None:
        replica.request = Request(action, body, self.clock(replica), replica.candidate.notices)

    def release(self, replica: Replica) -> None:
        """Tells the data plane first; what was under way goes on without an answer."""
        if not replica.is_running or replica.is_released:
            return
        replica.is_released = True
        if replica.request is not None:
            replica.late.append(replica.request)
        is_holder = replica.candidate.is_holder
        body = replica.candidate.resignation(EPOCH) if is_holder else None
        replica.candidate.resign()
        replica.plane_until_ns = 0
        replica.request = None
        if is_holder:
            self._send(replica, None, body)

    def crash(self, replica: Replica) -> None:
        """The control process is no more; the data plane goes on."""
        replica.is_running = False
        if replica.request is not None:
            replica.late.append(replica.request)
        replica.request = replica.watch_at = None

    def restart(self, replica: Replica, *, is_same: bool) -> None:
        """Of the control process alone (`is_same`: it goes on under its name), or of the whole pod.

        Not between the deletion of a Lease and its return, while it is held: that one cannot know it was there.
        """
        if replica.is_running or (self.server.is_deleted and self.leaders()):
            return
        replica.lives += 1
        name = replica.candidate.identity if is_same else f"{replica.candidate.identity}-{replica.lives}"
        replica.candidate = candidate(name)
        replica.is_running, replica.is_released = True, False
        if not is_same:
            replica.plane_until_ns = 0

    # What the server and the network do.

    def handle(self, request: Request) -> None:
        if request.is_handled:
            return
        request.is_handled = True
        server = self.server
        try:
            if request.action is Action.READ:
                request.answer = server.lease
            elif request.action is Action.CREATE:
                request.answer = server.create(request.body)
            else:
                request.answer = server.update(request.body)
        except Conflict as conflict:
            request.answer = conflict

    def answer(self, replica: Replica) -> None:
        request = replica.request
        if request is None or not request.is_handled:
            return
        replica.request = None
        now_ns, answer = self.clock(replica), request.answer
        if request.action is None:
            return
        if isinstance(answer, Conflict):
            replica.candidate.stale(now_ns)
        elif request.action is Action.READ:
            replica.candidate.read(lease_from(answer) if answer else None, now_ns, notices=request.notices)
        else:
            replica.candidate.wrote(lease_from(answer), request.sent_ns)
        self._tell(replica)

    def lose(self, replica: Replica) -> None:
        """The one who asked gives up; the request may still arrive."""
        request = replica.request
        if request is not None:
            replica.late.append(request)
            replica.request = None
            if request.action is not None:
                replica.candidate.failed(request.sent_ns, self.clock(replica))
            self._tell(replica)

    def watch(self, replica: Replica) -> None:
        """Begins a watch, with the Lease as it is, or tells the next event."""
        if not replica.is_running or replica.is_released:
            return
        if replica.watch_at is None:
            replica.watch_at = len(self.server.events)
            replica.candidate.is_watched = True
            event = ("ADDED", self.server.lease) if self.server.lease else None
        else:
            event = self.server.events[replica.watch_at] if replica.watch_at < len(self.server.events) else None
            replica.watch_at += event is not None
        if event is not None:
            replica.candidate.notice(None if event[0] == "DELETED" else lease_from(event[1]), self.clock(replica))
            self._tell(replica)

    def cut(self, replica: Replica) -> None:
        if replica.watch_at is not None:
            replica.watch_at = None
            replica.candidate.unwatched(self.clock(replica))

    def delete(self) -> None:
        """Somebody deletes the Lease when all know it: who has never seen it cannot know it was there."""
        for replica in self.replicas:
            self.catch_up(replica)
        self.server.delete()

    def catch_up(self, replica: Replica) -> None:
        """Its watch tells everything."""
        while replica.watch_at != len(self.server.events) and replica.is_running and not replica.is_released:
            self.watch(replica)

    def settle(self, seconds: float) -> None:
        """Everything works for so long."""
        for _ in range(int(seconds * 2)):
            self.now_ns += SECOND // 2
            for replica in self.replicas:
                for _ in range(4):
                    self.act(replica)
                    if replica.request is not None:
                        self.handle(replica.request)
                    self.answer(replica)
                self.catch_up(replica)

    def _tell(self, replica: Replica) -> None:
        """What the control process says to the data plane."""
        until_ns = replica.candidate.leads_until_ns
        if until_ns or replica.candidate.lease is not None:
            replica.plane_until_ns = until_ns
