"""Discovery by a Kubernetes cluster: what is watched there, and who leads."""

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from picker.admin.metrics import Figure
from picker.admin.server import Judge
from picker.control.messages import Leading, Start
from picker.control.reports import Reports
from picker.kube.client import KubeClient
from picker.kube.election import Election, lease_name
from picker.kube.reviews import Reviewer
from picker.kube.watch import KindFigures, KubernetesWatch
from picker.types import Endpoint

__all__ = ["Cluster"]

_SERVED = frozenset(["pods", "inferencepools"])
_COUNTED = {
    "lists": "Lists read of the API server.",
    "watches": "Watches begun.",
    "events": "Events taken over.",
    "stale_events": "Events older than what was known.",
    "unusable": "Objects that could not be used.",
}


class Cluster:
    """Watches what `start` names and tells `reports`; stands for election if that is asked for."""

    def __init__(self, start: Start, reports: Reports, known: Mapping[str, Sequence[Endpoint]]) -> None:
        self._start = start
        self._reports = reports
        self._known = known
        self._watch: KubernetesWatch | None = None
        self._election: Election | None = None
        self._is_leaving = start.is_leaving
        self._reviewer: Reviewer | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """Makes ready. Raises UsageError if there is no way to an API server."""
        kubernetes = self._start.kubernetes
        client = await KubeClient.connect(kubeconfig=kubernetes.kubeconfig)
        stack.push_async_callback(client.close)
        self._watch = KubernetesWatch(kubernetes, client, self._reports, known=self._known)
        if self._start.admin.endpoint_auth:
            self._reviewer = Reviewer(client)
        if self._start.election.enabled:
            self._election = self._candidate(client, lambda until_ns: self._reports.send([Leading(until_ns)]))

    def work(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What is to run from then on."""
        if self._watch is not None:
            yield self._watch.run()
        if self._election is not None:
            yield self._stand(self._election)

    async def _stand(self, election: Election) -> None:
        """For election, once there is something to serve: a leader without would keep others from it."""
        if self._is_leaving:  # the process before this one had no time to let go
            return await election.release()
        if not self._start.restarts:  # else it may lead already
            await self._reports.known.wait()
        if not self._is_leaving:
            await election.run()

    def _candidate(self, client: KubeClient, on_lead: Callable[[int], None]) -> Election:
        kubernetes, election = self._start.kubernetes, self._start.election
        pools = kubernetes.pools
        whole = pools[0] if len(pools) == 1 else f"{kubernetes.pool_namespace}/{kubernetes.deployment}"
        namespace, _, pool = whole.rpartition("/")
        return Election(
            election,
            client,
            namespace=namespace,
            name=election.lease_name or lease_name(namespace, pool),
            on_lead=on_lead,
            identity=self._start.identity,
        )

    @property
    def judge(self) -> Judge | None:
        """Who says whether a request may see metrics; None: all may."""
        return self._reviewer.judge if self._reviewer is not None else None

    @property
    def holds_lease(self) -> bool:
        """Whether others wait for this picker to go."""
        return self._election is not None and self._election.is_holder

    async def resign(self) -> None:
        """Lead no more: another picker may at once."""
        self._is_leaving = True
        if self._election is not None:
            await self._election.release()

    def age_s(self) -> float:
        """Since what is served was last known to be what the API server has."""
        ages = [of.age_s for of in self._figures() if of.kind in _SERVED and of.age_s is not None]
        return max(ages, default=time.monotonic() - self._start.confirmed_ns * 1e-9)

    def counters(self) -> dict[str, Figure]:
        """For the metrics page."""
        figures = self._figures()
        faults = [((of.kind, cause), float(count)) for of in figures for cause, count in sorted(of.faults.items())]
        kept_out = self._watch.kept_out if self._watch is not None else 0
        found: dict[str, Figure] = {
            f"picker_watch_{name}": (about, ("kind",), [((of.kind,), float(getattr(of, name))) for of in figures])
            for name, about in _COUNTED.items()
        }
        found["picker_watch_faults"] = ("Lists and watches that failed, by cause.", ("kind", "cause"), faults)
        found["picker_watch_kept_out"] = ("Changes that were too much to be taken over.", (), [((), float(kept_out))])
        return {**found, **(self._election.counters() if self._election is not None else {})}

    def gauges(self) -> dict[str, Figure]:
        """For the metrics page."""
        ages = [((of.kind,), of.age_s) for of in self._figures() if of.age_s is not None]
        about = "Time since the objects of a kind were last known to be those there are."
        found: dict[str, Figure] = {"picker_watch_age_seconds": (about, ("kind",), ages)}
        if self._election is not None:
            leads = float(self._election.is_leading)
            found["picker_leading"] = ("1 while this picker leads.", (), [((), leads)])
        return found

    def _figures(self) -> tuple[KindFigures, ...]:
        return self._watch.figures() if self._watch is not None else ()
