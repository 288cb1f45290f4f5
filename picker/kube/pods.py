"""Pods and a pool to the endpoints they come to. Pure.

An endpoint is a target port of a pod that is ready. Where two pods claim an address, as when one that ends still stands
there while its successor has the same IP, or pods of the host's network change places, the younger one has it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from picker.errors import printable
from picker.kube.objects import Pod, PoolSpec
from picker.kube.store import Key
from picker.types import Endpoint

__all__ = ["Difference", "EndpointTable", "active_ports", "endpoints_of"]

_LOG = logging.getLogger("picker.kube")

_Claim: TypeAlias = tuple[str, str, Endpoint]
"""When the pod was created, its uid, and what it would be here."""


class Difference(NamedTuple):
    """`gone`: endpoints that are no more, also where another is now at their address. `come`: new ones, and those that
    have other labels than before."""

    gone: tuple[Endpoint, ...]
    come: tuple[Endpoint, ...]


def active_ports(said: str | None, ports: Sequence[int]) -> tuple[int, ...]:
    """Those of `ports` that an active-ports annotation, a comma-separated list, leaves. None: there is no annotation.

    An empty one leaves none: so a pod is drained. Raises ValueError for what is no list of ports.
    """
    if said is None:
        return tuple(ports)
    words = [word.strip() for word in said.split(",")] if said.strip() else []
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 5 and 1 <= int(word) <= 65535):
            raise ValueError(f"{word[:20]!r} is not a port")
    named = {int(word) for word in words}
    return tuple(port for port in ports if port in named)


def endpoints_of(pod: Pod, spec: PoolSpec) -> tuple[Endpoint, ...]:
    """The endpoints that the pod is in the pool: one for each active target port if it is ready, else none.

    One port: called as the pod; several: `<pod>-rank-<i>`, `i` being the port's place in the pool, active or not. An
    annotation that cannot be read counts as none: a typing error must not take a pod out of service.
    Raises ValueError for an address that is none.
    """
    if not pod.is_ready or not pod.address or any(pod.labels.get(key) != spec.labels[key] for key in spec.labels):
        return ()
    try:
        active = active_ports(pod.active_ports, spec.ports)
    except ValueError:
        active = spec.ports
    return tuple(
        Endpoint(
            name=pod.name if len(spec.ports) == 1 else f"{pod.name}-rank-{rank}",
            namespace=pod.namespace,
            address=pod.address,
            port=port,
            labels=pod.labels,
            incarnation=f"{pod.uid}/{pod.restarts}",
        )
        for rank, port in enumerate(spec.ports)
        if port in active
    )


class EndpointTable:
    """The endpoints of one pool. `told`: those that someone was told already; what differs is a `Difference`.

    A change costs what it changes. What was told counts only once it is confirmed.
    """

    def __init__(self, spec: PoolSpec, told: Iterable[Endpoint] = ()) -> None:
        self.spec = spec
        self._told = {endpoint.target: endpoint for endpoint in told}
        self._targets: dict[Key, tuple[str, ...]] = {}
        self._claims: dict[str, dict[Key, _Claim]] = {}
        self._touched: dict[str, None] = {}  # a set in order
        self._complaints: dict[Key, str] = {}

    @property
    def told(self) -> tuple[Endpoint, ...]:
        """The endpoints that were told."""
        return tuple(self._told.values())

    def replace(self, spec: PoolSpec, pods: Mapping[Key, Pod]) -> None:
        """The pool is this now, and these are all the pods."""
        self.spec = spec
        self._targets, self._claims = {}, {}
        self._complaints = {key: said for key, said in self._complaints.items() if key in pods}
        for key, pod in pods.items():
            self._claim(key, pod)
        self._touched = dict.fromkeys((*self._told, *self._claims))

    def change(self, key: Key, pod: Pod | None) -> None:
        """One pod is new, other than before, or gone."""
        for target in self._targets.pop(key, ()):
            self._touched[target] = None
            claims = self._claims[target]
            del claims[key]
            if not claims:
                del self._claims[target]
        if pod is None:
            self._complaints.pop(key, None)
        else:
            self._claim(key, pod)
            self._touched.update(dict.fromkeys(self._targets.get(key, ())))

    def difference(self) -> Difference:
        """What is other than told."""
        gone, come = [], []
        for target in self._touched:
            old, new = self._told.get(target), self._holder(target)
            if old == new:
                continue
            if old is not None and (new is None or new.key != old.key):
                gone.append(old)
            if new is not None:
                come.append(new)
        return Difference(tuple(gone), tuple(come))

    def confirm(self, difference: Difference) -> None:
        """It was told."""
        for endpoint in difference.gone:
            self._told.pop(endpoint.target, None)
        for endpoint in difference.come:
            self._told[endpoint.target] = endpoint
        self._touched.clear()

    def _holder(self, target: str) -> Endpoint | None:
        claims = self._claims.get(target)
        return max(claims.values(), key=_age)[2] if claims else None

    def _claim(self, key: Key, pod: Pod) -> None:
        self._complain(key, pod)
        try:
            endpoints = endpoints_of(pod, self.spec)
        except ValueError as problem:
            _LOG.error("pod %s/%s is left out: %s", *key, printable(str(problem)))
            return
        for endpoint in endpoints:
            self._claims.setdefault(endpoint.target, {})[key] = pod.created, pod.uid, endpoint
        if endpoints:
            self._targets[key] = tuple(endpoint.target for endpoint in endpoints)

    def _complain(self, key: Key, pod: Pod) -> None:
        """Once for each text."""
        if pod.active_ports is None or self._complaints.get(key) == pod.active_ports:
            return
        try:
            active_ports(pod.active_ports, self.spec.ports)
        except ValueError as problem:
            self._complaints[key] = pod.active_ports
            _LOG.warning("pod %s/%s: active-ports annotation: %s; all ports count", *key, printable(str(problem)))


def _age(claim: _Claim) -> tuple[str, str]:
    return claim[:2]
