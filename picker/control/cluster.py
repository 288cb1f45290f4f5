"""Discovery by a Kubernetes cluster: what is watched there, and who leads."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from picker.admin.metrics import Counter
from picker.control.messages import Start
from picker.control.reports import Reports
from picker.kube.client import KubeClient
from picker.kube.watch import KubernetesWatch
from picker.types import Endpoint

__all__ = ["Cluster"]


class Cluster:
    """Watches what `start` names and tells `reports`; leads by a Lease if that is asked for."""

    def __init__(self, start: Start, reports: Reports, known: Mapping[str, Sequence[Endpoint]]) -> None:
        self._start = start
        self._reports = reports
        self._known = known
        self._watch: KubernetesWatch | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """Works until the stack is unwound. Raises UsageError if there is no way to an API server."""
        kubernetes = self._start.kubernetes
        client = await KubeClient.connect(kubeconfig=kubernetes.kubeconfig)
        stack.push_async_callback(client.close)
        self._watch = KubernetesWatch(kubernetes, client, self._reports, known=self._known)
        watching = asyncio.get_running_loop().create_task(self._watch.run(), name="watch")
        stack.push_async_callback(_end, watching)

    async def resign(self) -> None:
        """Lead no more: another picker may at once."""

    def age_s(self) -> float:
        """Since what is served was last known to be what the API server has."""
        return self._watch.age_s() if self._watch is not None else 0.0

    def counters(self) -> dict[str, Counter]:
        """For the metrics page."""
        return self._watch.counters() if self._watch is not None else {}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
