"""A Lease (coordination.k8s.io/v1), and how one candidate goes about holding it: decisions without I/O or clock.

The rules are client-go's. Whether another's lease has run out is told by how long its record has not changed, on our
own monotonic clock; the times in the record are for people. Every write names the version it was read at, so of two
candidates that both think themselves entitled one is refused. A leader counts its time from before it asked.
"""

import datetime
import enum
import os
import random
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from picker.errors import KubernetesError

__all__ = ["Action", "Candidate", "Lease", "Terms", "lease_from", "new_identity"]

Json = dict[str, Any]

SECOND_NS = 1_000_000_000
MOST_STALE = 3
"""Times in a row that a write may come too late and be tried again at once."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease as the server has it. `lasts_ns`: how long its holder may go without renewing it."""

    version: str
    holder: str
    lasts_ns: int
    raw: Mapping[str, Any]

    @property
    def spec(self) -> Any:
        """What a holder changes with every renewal."""
        return self.raw.get("spec") or {}


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec | None = None


def lease_from(raw: Any) -> Lease:
    """Reads a decoded object. Raises KubernetesError if it is no Lease."""
    try:
        read = msgspec.convert(raw, _Lease)
    except msgspec.ValidationError as problem:
        raise KubernetesError(f"an object that is no Lease: {problem}") from problem
    spec = read.spec or _Spec()
    lasts_ns = (spec.lease_duration_seconds or 0) * SECOND_NS
    return Lease(read.metadata.resource_version, spec.holder_identity or "", lasts_ns, raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The times of an election: a lease of `lease_s` (whole seconds), renewed every `retry_s`; who could not for
    `renew_s` no longer leads. Raises ValueError unless lease > renewal > 1.25 retries."""

    lease_s: float
    renew_s: float
    retry_s: float

    def __post_init__(self) -> None:
        if not self.lease_s > self.renew_s > self.retry_s * 1.25 > 0:
            raise ValueError(
                f"the lease ({self.lease_s:g} s) must be longer than the deadline to renew it ({self.renew_s:g} s), "
                f"and that longer than 1.25 times the time between two tries ({self.retry_s:g} s)"
            )

    @property
    def lease_seconds(self) -> int:
        """As it stands in the record: whole, never less than what was asked for."""
        return -int(-self.lease_s // 1)


class Action(enum.Enum):
    """What to do next. Until `Candidate.due_ns`: nothing."""

    WAIT = enum.auto()
    READ = enum.auto()
    CREATE = enum.auto()
    UPDATE = enum.auto()


class Candidate:
    """One who would hold the Lease `name`. Times are readings of one monotonic clock, in ns.

    Ask `step` what to do; tell what came of it by `read`, `wrote`, `stale` or `failed`, and what a watch says by
    `notice`. It leads until `leads_until_ns` (0: it does not), whatever becomes of the one who asks.
    """

    def __init__(
        self,
        identity: str,
        terms: Terms,
        *,
        name: str,
        namespace: str,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.leads_until_ns = 0
        self.due_ns = 0
        self.is_watched = False
        """Whether changes are noticed as they come; else the Lease is looked at every retry."""
        self.notices = 0
        self.lease: Lease | None = None
        """As last seen; None: there was none."""
        self._name, self._namespace = name, namespace
        self._terms = terms
        self._retry_ns = int(terms.retry_s * SECOND_NS)
        self._renew_ns = int(terms.renew_s * SECOND_NS)
        self._jitter = jitter
        self._is_known = False
        self._is_stale = 0
        self._spec: Any = None
        self._taken_until_ns = 0  # another's lease, also if it is no longer there: who deletes it frees nobody

    @property
    def is_holder(self) -> bool:
        """Whether the Lease, as last seen, bears its name."""
        return self.lease is not None and self.lease.holder == self.identity

    # What to do.

    def step(self, now_ns: int) -> Action:
        """What to do now."""
        if now_ns < self.due_ns:
            return Action.WAIT
        if not self._is_known:
            return Action.READ
        if self._taken_until_ns > now_ns:
            self.due_ns = self._taken_until_ns
            if not self.is_watched:
                self.due_ns = min(self.due_ns, now_ns + self._pause_ns())
                self._is_known = False
            return Action.WAIT
        return Action.CREATE if self.lease is None else Action.UPDATE

    def claim(self, now: datetime.datetime) -> Json:
        """The object to create or update to; what else stands in it stays."""
        raw = self.lease.raw if self.lease else {"metadata": {"name": self._name, "namespace": self._namespace}}
        spec = raw.get("spec") or {}
        time = _micro_time(now)
        mine = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._terms.lease_seconds,
            "acquireTime": spec.get("acquireTime", time) if self.is_holder else time,
            "renewTime": time,
            "leaseTransitions": self._transitions(),
        }
        return {**raw, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {**spec, **mine}}

    def resignation(self, now: datetime.datetime) -> Json:
        """The object that frees the Lease for whoever is first."""
        claim = self.claim(now)
        spec = {**claim["spec"], "leaseDurationSeconds": 1, "acquireTime": _micro_time(now)}
        del spec["holderIdentity"]  # an empty one is refused by newer servers
        return {**claim, "spec": spec}

    # What came of it.

    def read(self, lease: Lease | None, now_ns: int, *, notices: int = 0) -> None:
        """What the server has (None: no such Lease). `notices`: how many there were when it was asked."""
        if notices != self.notices:  # which is newer cannot be told
            self._is_known, self.due_ns = False, now_ns
            return
        self._learn(lease, now_ns)

    def wrote(self, lease: Lease, sent_ns: int) -> None:
        """The server took the claim that was sent at `sent_ns`, and has this now.

        Where a Lease was created, another's may have come and been deleted since that was sent: that one is waited out.
        """
        self.lease, self._spec = lease, lease.spec
        self._is_known, self._is_stale = True, 0
        if self._taken_until_ns <= sent_ns:
            self.leads_until_ns = sent_ns + self._renew_ns
        self.due_ns = sent_ns + self._retry_ns

    def stale(self, now_ns: int) -> None:
        """The server has something else by now than what was to be changed."""
        self._is_known = False
        self._is_stale += 1
        self.due_ns = now_ns if self._is_stale < MOST_STALE else now_ns + self._pause_ns()

    def failed(self, sent_ns: int, now_ns: int, *, after_s: float = 0.0) -> None:
        """What was sent at `sent_ns` has no answer that helps; the server asks to be left alone for `after_s`.

        A write of which nothing is known is tried again as it is: if it was taken after all, the version tells.
        """
        asked_ns = min(int(after_s * SECOND_NS), self._renew_ns)
        self.due_ns = max(sent_ns + self._pause_ns(), now_ns + asked_ns)

    def notice(self, lease: Lease | None, now_ns: int) -> None:
        """A watch says so; it may be late. None: the Lease was deleted."""
        self.notices += 1
        if self.leads_until_ns <= now_ns:
            self._learn(lease, now_ns)
        elif lease is None or lease.holder != self.identity:
            self.due_ns = min(self.due_ns, now_ns)  # to renew is to find out

    def unwatched(self, now_ns: int) -> None:
        """Nothing tells of changes for now: unless it holds the Lease, it looks."""
        self.is_watched = False
        if not self.is_holder:
            self._is_known, self.due_ns = False, min(self.due_ns, now_ns)

    def resign(self) -> None:
        """It leads no more and knows nothing."""
        self.leads_until_ns, self._is_known = 0, False

    def _learn(self, lease: Lease | None, now_ns: int) -> None:
        self._is_known, self.due_ns = True, now_ns
        self.lease = lease
        if lease is None:
            return
        if lease.holder != self.identity:
            self.leads_until_ns = 0
        if lease.spec != self._spec:
            self._spec = lease.spec
            if not lease.holder:
                self._taken_until_ns = 0
            elif lease.holder != self.identity:
                self._taken_until_ns = now_ns + lease.lasts_ns

    def _transitions(self) -> int:
        """How often the Lease has changed hands, with us."""
        if self.lease is None:
            return 0
        so_far = self.lease.spec.get("leaseTransitions") or 0
        return int(so_far) + (not self.is_holder)

    def _pause_ns(self) -> int:
        return int(self._retry_ns * (1 + self._jitter() / 4))


def _micro_time(now: datetime.datetime) -> str:
    """`metav1.MicroTime`: six digits, always."""
    return now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_identity() -> str:
    """Who holds a Lease: the pod, and something that tells this run of it from others."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(8)}"
