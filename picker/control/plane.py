"""What runs in the control process: discovery, scraping and the admin port, joined by a link to the data plane.

It ends when the link does: there is no orphan, whatever became of the data plane.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import uvloop

from picker.admin.metrics import Figure, Snapshot
from picker.admin.server import Unavailable, start_admin
from picker.control.admin import admin_certificate, keep_renewed
from picker.control.files import Files
from picker.control.messages import Observed, Resign, Rows, Scraping, Start
from picker.control.page import make_snapshot
from picker.control.questions import Questions
from picker.control.reports import Reports, pieces
from picker.errors import PickerError
from picker.logs import configure_logging
from picker.scrape.engines import configured_engines
from picker.scrape.scraper import Scraper
from picker.types import Endpoint, EndpointKey, ScrapedLoad

if TYPE_CHECKING:
    from picker.control.cluster import Cluster

__all__ = ["ControlPlane", "main"]

OBSERVE_S = 0.02
"""How long scraped loads wait for others to be sent with them."""

NICENESS = 10
"""Where cores are scarce, picks come first: one busy thread beside this process leaves it a tenth of a core."""

PULSE_S = 1.0
DYING_S = 0.5
"""How long a process may take from closing its files to being gone."""

_LOOK_S = 0.01

_LOG = logging.getLogger("picker.control")


def main(numbers: Sequence[int]) -> int:
    """Runs until the link ends. `numbers`: file descriptors of the link and of the admin port's listening sockets."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the data plane drains first, and then ends this
    os.nice(NICENESS)
    link, *listeners = (socket.socket(fileno=number) for number in numbers)
    try:
        uvloop.run(_run(link, listeners))
    except PickerError as problem:
        _LOG.error("%s", problem)
        return problem.exit_code
    return 0


async def _run(sock: socket.socket, listeners: Sequence[socket.socket]) -> None:
    questions = Questions()
    await asyncio.get_running_loop().create_connection(lambda: questions.link, sock=sock)
    plane = asyncio.ensure_future(_serve(questions, listeners))
    closed = asyncio.ensure_future(questions.link.closed.wait())
    await asyncio.wait([plane, closed], return_when=asyncio.FIRST_COMPLETED)
    plane.cancel()
    await asyncio.wait([plane])
    if not plane.cancelled():
        plane.result()


async def _serve(questions: Questions, listeners: Sequence[socket.socket]) -> None:
    known, start = await questions.started()
    configure_logging(start.log.verbosity, start.log.encoder)
    plane = ControlPlane(start, known, questions)
    await plane.run(listeners)


def _source(start: Start, reports: Reports, known: Mapping[str, Sequence[Endpoint]]) -> "Files | Cluster":
    if start.discovery.endpoints_file:
        return Files(start, reports, known)
    from picker.control.cluster import Cluster  # here: files need no Kubernetes client, and its 50 MB

    return Cluster(start, reports, known)


async def _has_died(parent: int) -> bool:
    """Whether that process is no more, or ends in a moment: its end of the link closes a little before."""
    for _ in range(int(DYING_S / _LOOK_S)):
        if os.getppid() != parent:
            return True
        await asyncio.sleep(_LOOK_S)
    return False


class ControlPlane:
    """Discovery, scraping and the admin port over one link. `known`: the endpoints the data plane has, by pool."""

    def __init__(self, start: Start, known: Mapping[str, Sequence[Endpoint]], questions: Questions) -> None:
        self._parent = os.getppid()
        self._start = start
        self._questions = questions
        questions.on_order = self._obey
        self._busy: frozenset[str] = frozenset()
        self._loads: dict[EndpointKey, ScrapedLoad] = {}
        self._scraper = Scraper(self, settings=start.scrape, engines=configured_engines(start.extractor))
        self._reports = Reports(questions.link.send, self._scraper, known)
        self._source = _source(start, self._reports, known)
        self._snapshots = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Works until cancelled. Raises UsageError if there is no way to a cluster that is to be watched."""
        async with contextlib.AsyncExitStack() as stack:
            await self._source.start(stack)
            stack.push_async_callback(self._leave)
            certificate = admin_certificate(self._start.admin)
            admin = await start_admin(
                take=self.snapshot,
                decisions=self.decisions,
                is_ready=self.is_ready,
                sockets=listeners,
                judge=self._source.judge,
                tls=certificate.context if certificate is not None else None,
            )
            stack.push_async_callback(admin.cleanup)
            stack.push_async_callback(self._scraper.stop)
            if self._start.scrape.enabled:
                await self._scraper.start()
            async with asyncio.TaskGroup() as group:  # a bug in one of them ends the process, which is started again
                for work in (self._pulse(), *self._source.work()):
                    group.create_task(work)
                if certificate is not None:
                    group.create_task(keep_renewed(certificate))

    async def _leave(self) -> None:
        """A data plane that has died leads no more, whatever it was told: its Lease is another's to take at once.

        A resignation that was ordered is waited for, as long as it may take: the connections end after this.
        """
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._source.holds_lease and await _has_died(self._parent):
            _LOG.warning("the data plane has died: giving up the lease")
            await self._source.resign()

    async def _pulse(self) -> None:
        """Says that it lives, and learns which endpoints are busy: often enough for the scraper."""
        scrape = self._start.scrape
        pause_s = min(scrape.busy_interval_s / 2, PULSE_S) if scrape.enabled else PULSE_S
        while True:
            try:
                self._busy = frozenset((await self._questions.text("busy")).decode().split())
            except Unavailable as problem:
                _LOG.warning("%s", problem)
            await asyncio.sleep(pause_s)

    def _obey(self, order: Scraping | Resign) -> None:
        if isinstance(order, Resign):
            self._do(self._source.resign())
        else:
            self._do(self._scraper.reconfigure(order.scrape, configured_engines(order.extractor)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What the scraper asks and tells.

    def busy(self, endpoint: Endpoint) -> bool:
        """Had it requests of ours under way a moment ago?"""
        return endpoint.target in self._busy

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        """Sent soon, together with others."""
        if not self._loads:
            asyncio.get_running_loop().call_later(OBSERVE_S, self._send_loads)
        self._loads[endpoint.key] = load

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        """The load known so far ages; picks go on by what is booked."""
        _LOG.debug("no metrics from %s: %s", endpoint.target, reason)

    def _send_loads(self) -> None:
        loads, self._loads = self._loads, {}
        by_pool: dict[str, list[tuple[EndpointKey, ScrapedLoad]]] = {}
        for key, load in loads.items():
            for pool in self._reports.pools_of(key):
                by_pool.setdefault(pool, []).append((key, load))
        for pool, rows in by_pool.items():
            self._questions.link.send(Observed(pool, tuple(piece)) for piece in pieces(rows))

    # What people and Prometheus see.

    async def is_ready(self) -> bool:
        """Whether the data plane asks for traffic. Raises Unavailable."""
        return await self._questions.text("ready") == b"ready"

    async def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The latest picks. Raises Unavailable."""
        rows = [
            row for rows in await self._questions.ask("decisions", limit) if isinstance(rows, Rows) for row in rows.rows
        ]
        rows.sort(key=lambda row: float(row["age_s"]))  # each pool's are in order already
        return rows[:limit]

    async def snapshot(self) -> Snapshot:
        """Everything the metrics page shows, now. Raises Unavailable."""
        async with self._snapshots:  # one at a time: each makes the data plane work
            messages = await self._questions.ask("snapshot")
        source = self._source
        return make_snapshot(
            messages, self._start, age_s=source.age_s(), counters=self._counters(), gauges=source.gauges()
        )

    def _counters(self) -> dict[str, Figure]:
        scraper = self._scraper
        failures = [((reason,), float(count)) for reason, count in sorted(scraper.failures.items())]
        return {
            "picker_scrapes": ("Metrics pages read.", (), [((), float(scraper.scrapes))]),
            "picker_scrape_failures": ("Metrics pages not read, by cause.", ("reason",), failures),
            "picker_scrape_seconds": ("Time spent reading metrics pages.", (), [((), scraper.seconds)]),
            "picker_scrape_malformed_lines": (
                "Lines of wanted series that could not be read.",
                (),
                [((), float(scraper.malformed_lines))],
            ),
            **self._source.counters(),
            "picker_endpoint_changes": (
                "Endpoints that came, went or changed.",
                (),
                [((), float(self._reports.changes))],
            ),
            "picker_control_restarts": (
                "Times the control process was restarted.",
                (),
                [((), float(self._start.restarts))],
            ),
        }
