"""Discovery by files: the endpoints of one pool, and the objects beside them."""

import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from picker.admin.metrics import Figure
from picker.admin.server import Judge
from picker.control.messages import Start
from picker.control.reports import Reports
from picker.discovery.file import EndpointsFile
from picker.discovery.resources import ResourcesFile
from picker.resources.rules import of_pool
from picker.types import Endpoint

__all__ = ["Files"]


class Files:
    """Follows the files that `start` names and tells `reports`, from what is `known` on."""

    def __init__(self, start: Start, reports: Reports, known: Mapping[str, Sequence[Endpoint]]) -> None:
        self._confirmed_s = start.confirmed_ns * 1e-9
        discovery, pool = start.discovery, start.pool
        self._endpoints = EndpointsFile(
            discovery.endpoints_file,
            on_change=lambda endpoints: reports.set_endpoints(pool, endpoints),
            interval_s=discovery.endpoints_interval_s,
        )
        self._endpoints.resume(tuple(known.get(pool, ())), start.fingerprint)
        self._resources: ResourcesFile | None = None
        if discovery.resources_file:
            wanted = start.kubernetes.pools[0].rpartition("/")[2] if start.kubernetes.pools else ""
            self._resources = ResourcesFile(
                discovery.resources_file,
                on_change=lambda objects: reports.set_objects(pool, of_pool(objects, pool=wanted)),
                interval_s=discovery.endpoints_interval_s,
            )

    async def start(self, stack: AsyncExitStack) -> None:
        """Follows them until the stack is unwound."""
        self._endpoints.start()
        stack.push_async_callback(self._endpoints.stop)
        if self._resources is not None:
            self._resources.start()
            stack.push_async_callback(self._resources.stop)

    def work(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Nothing: files are followed by themselves."""
        return iter(())

    @property
    def judge(self) -> Judge | None:
        """Nobody: without a cluster there is nobody to ask who a token is of."""
        return None

    @property
    def holds_lease(self) -> bool:
        """Nobody waits for this picker to go."""
        return False

    async def resign(self) -> None:
        """Nobody else serves in this picker's place."""

    def age_s(self) -> float:
        """Since the endpoints were last known to be those of the file."""
        confirmed_s = self._endpoints.confirmed_s
        return time.monotonic() - (self._confirmed_s if confirmed_s is None else confirmed_s)

    def gauges(self) -> dict[str, Figure]:
        """None."""
        return {}

    def counters(self) -> dict[str, Figure]:
        """For the metrics page."""
        errors = self._resources.reload_errors if self._resources is not None else 0
        return {
            "picker_endpoints_file_errors": (
                "Edits of the endpoints file not taken.",
                (),
                [((), float(self._endpoints.reload_errors))],
            ),
            "picker_resources_file_errors": ("Edits of the resources file not taken.", (), [((), float(errors))]),
        }
