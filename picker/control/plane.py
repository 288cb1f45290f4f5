"""What runs in the control process: discovery, scraping and the admin port, joined by a link to the data plane.

It ends when the link does: there is no orphan, whatever became of the data plane.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import uvloop

from picker import __version__
from picker._core.copies import read_endpoints, read_series, read_totals
from picker._core.rewrite import Rewrites
from picker.admin.metrics import Counter, Snapshot
from picker.admin.server import Unavailable, start_admin
from picker.control.link import Link
from picker.control.messages import (
    Ask,
    Change,
    End,
    EndpointFigures,
    FromData,
    Known,
    Observed,
    Question,
    RewriteFigures,
    Rewriting,
    Rows,
    SeriesFigures,
    Start,
    Text,
    Vitals,
)
from picker.discovery.file import EndpointsFile
from picker.discovery.resources import ResourcesFile
from picker.logs import configure_logging
from picker.resources.objects import Resource
from picker.resources.rules import rewrite_rules
from picker.scrape.engines import configured_engines
from picker.scrape.scraper import Scraper
from picker.types import Endpoint, EndpointKey, ScrapedLoad

__all__ = ["ControlPlane", "main"]

ANSWER_S = 5.0
"""Longest time the data plane may take to answer."""

OBSERVE_S = 0.02
"""How long scraped loads wait for others to be sent with them."""

NICENESS = 10
"""Where cores are scarce, picks come first: one busy thread beside this process leaves it a tenth of a core."""

PULSE_S = 1.0
PIECE = 16  # endpoints, loads or rules in one message: some 200 us of the data plane's time

_LOG = logging.getLogger("picker.control")
T = TypeVar("T")


def main(numbers: Sequence[int]) -> int:
    """Runs until the link ends. `numbers`: file descriptors of the link and of the admin port's listening sockets."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the data plane drains first, and then ends this
    os.nice(NICENESS)
    link, *listeners = (socket.socket(fileno=number) for number in numbers)
    uvloop.run(_run(link, listeners))
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


async def _serve(questions: "Questions", listeners: Sequence[socket.socket]) -> None:
    endpoints, start = await questions.started()
    configure_logging(start.log.verbosity, start.log.encoder)
    plane = ControlPlane(start, endpoints, questions)
    await plane.run(listeners)


class Questions:
    """The link as the control process uses it: orders go out, and answers come in the order of the questions."""

    def __init__(self) -> None:
        self.link: Link[FromData] = Link(FromData, self._take)
        self._known: list[Endpoint] = []
        self._start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._open: deque[tuple[list[FromData], asyncio.Future[list[FromData]]]] = deque()

    async def started(self) -> tuple[tuple[Endpoint, ...], Start]:
        """What the data plane says first."""
        start = await self._start
        return tuple(self._known), start

    async def ask(self, what: Question, limit: int = 0) -> list[FromData]:
        """The messages of the answer. Raises TimeoutError."""
        answer: asyncio.Future[list[FromData]] = asyncio.get_running_loop().create_future()
        self._open.append(([], answer))
        self.link.send([Ask(what, limit)])
        return await asyncio.wait_for(answer, ANSWER_S)

    def _take(self, message: FromData) -> None:
        if isinstance(message, Known):
            self._known += message.endpoints
        elif isinstance(message, Start):
            self._start.set_result(message)
        elif not isinstance(message, End):
            self._open[0][0].append(message)
        else:
            messages, answer = self._open.popleft()
            if not answer.done():  # the one who asked may have gone
                answer.set_result(messages)


def _pieces(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + PIECE] for at in range(0, len(items), PIECE))


class ControlPlane:
    """Discovery, scraping and the admin port over one link."""

    def __init__(self, start: Start, endpoints: Sequence[Endpoint], questions: Questions) -> None:
        self.changes = 0
        """Endpoints that came, went or changed."""
        self._start = start
        self._questions = questions
        self._endpoints = {endpoint.target: endpoint for endpoint in endpoints}
        self._busy: frozenset[str] = frozenset()
        self._loads: dict[EndpointKey, ScrapedLoad] = {}
        discovery = start.discovery
        self._discovery = EndpointsFile(
            discovery.endpoints_file, on_change=self._set_endpoints, interval_s=discovery.endpoints_interval_s
        )
        self._discovery.resume(tuple(endpoints), start.fingerprint)
        self._resources = ResourcesFile(
            discovery.resources_file, on_change=self._set_resources, interval_s=discovery.endpoints_interval_s
        )
        self._scraper = Scraper(self, settings=start.scrape, engines=configured_engines(start.extractor))
        self._scraper.set_endpoints(endpoints)
        self._snapshots = asyncio.Lock()

    async def run(self, listeners: Sequence[socket.socket]) -> None:
        """Works until cancelled."""
        admin = await start_admin(
            take=self.snapshot, decisions=self.decisions, is_ready=self.is_ready, sockets=listeners
        )
        if self._start.scrape.enabled:
            await self._scraper.start()
        self._discovery.start()
        if self._start.discovery.resources_file:
            self._resources.start()
        try:
            await self._pulse()
        finally:
            await self._discovery.stop()
            await self._resources.stop()
            await self._scraper.stop()
            await admin.cleanup()

    async def _pulse(self) -> None:
        """Says that it lives, and learns which endpoints are busy: often enough for the scraper."""
        scrape = self._start.scrape
        pause_s = min(scrape.busy_interval_s / 2, PULSE_S) if scrape.enabled else PULSE_S
        while True:
            try:
                self._busy = frozenset((await self._text("busy")).decode().split())
            except Unavailable as problem:
                _LOG.warning("%s", problem)
            await asyncio.sleep(pause_s)

    # Endpoints.

    def _set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Tells what is other than before."""
        coming = {endpoint.target: endpoint for endpoint in endpoints}
        before = self._endpoints
        gone = [endpoint for target, endpoint in before.items() if target not in coming]
        come = [new for target, new in coming.items() if (old := before.get(target)) is not new and old != new]
        replaced = [old for new in come if (old := before.get(new.target)) and old.key != new.key]
        self._endpoints = coming
        self.changes += len(gone) + len(come)
        self._scraper.change(gone=[endpoint.key for endpoint in (*gone, *replaced)], come=come)
        self._questions.link.send(Change(tuple(old.target for old in piece), ()) for piece in _pieces(gone))
        self._questions.link.send(Change((), tuple(piece)) for piece in _pieces(come))

    # Rules.

    def _set_resources(self, objects: tuple[Resource, ...]) -> None:
        """Sends the rules they come to. Raises OverflowError if those are too many."""
        rules = rewrite_rules(objects, pool=self._start.resources_pool)
        Rewrites(rules)
        _LOG.info("rewrite rules: rules=%d objects=%d", len(rules), len(objects))
        pieces = tuple(_pieces(rules)) or ((),)
        last = len(pieces) - 1
        self._questions.link.send(
            Rewriting(tuple(piece), is_first=at == 0, is_last=at == last) for at, piece in enumerate(pieces)
        )

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
        loads, self._loads = list(self._loads.items()), {}
        self._questions.link.send(Observed(tuple(piece)) for piece in _pieces(loads))

    # What people and Prometheus see.

    async def is_ready(self) -> bool:
        """Whether the data plane asks for traffic. Raises Unavailable."""
        return await self._text("ready") == b"ready"

    async def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The latest picks. Raises Unavailable."""
        return [row for rows in await self._ask("decisions", limit) if isinstance(rows, Rows) for row in rows.rows]

    async def snapshot(self) -> Snapshot:
        """Everything the metrics page shows, now. Raises Unavailable."""
        async with self._snapshots:  # one at a time: each makes the data plane work
            messages = await self._ask("snapshot")
        series: list[dict[str, Any]] = []
        endpoints: list[dict[str, Any]] = []
        rewrites: list[tuple[str, str, str, int]] = []
        (vitals,) = (message for message in messages if isinstance(message, Vitals))
        for message in messages:
            if isinstance(message, SeriesFigures):
                series += read_series(message.copies)
            elif isinstance(message, EndpointFigures):
                endpoints += read_endpoints(message.copies, vitals.now_ns)
            elif isinstance(message, RewriteFigures):
                rewrites += message.rows
        return Snapshot(
            version=__version__,
            shell=self._start.shell,
            pool=self._start.pool,
            now_ns=vitals.now_ns,
            stale_after_s=self._start.scrape.staleness_threshold_s,
            stats={"series": series, **read_totals(vitals.totals)},
            endpoints=endpoints,
            sessions=vitals.sessions,
            buffered_bytes=vitals.buffered_bytes,
            index_blocks=vitals.index_blocks,
            index_bytes=vitals.index_bytes,
            rewrites=rewrites,
            endpoints_age_s=self._endpoints_age_s(),
            plugins=vitals.plugins,
            routing=vitals.routing,
            counters=self._counters(),
        )

    async def _text(self, what: Question) -> bytes:
        return b"".join(message.text for message in await self._ask(what) if isinstance(message, Text))

    async def _ask(self, what: Question, limit: int = 0) -> list[FromData]:
        try:
            return await self._questions.ask(what, limit)
        except TimeoutError:
            raise Unavailable(f"the data plane takes more than {ANSWER_S:g} s to answer") from None

    def _endpoints_age_s(self) -> float:
        confirmed_s = self._discovery.confirmed_s
        return time.monotonic() - (self._start.confirmed_ns * 1e-9 if confirmed_s is None else confirmed_s)

    def _counters(self) -> dict[str, Counter]:
        scraper, discovery = self._scraper, self._discovery
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
            "picker_endpoints_file_errors": (
                "Edits of the endpoints file not taken.",
                (),
                [((), float(discovery.reload_errors))],
            ),
            "picker_resources_file_errors": (
                "Edits of the resources file not taken.",
                (),
                [((), float(self._resources.reload_errors))],
            ),
            "picker_endpoint_changes": ("Endpoints that came, went or changed.", (), [((), float(self.changes))]),
            "picker_control_restarts": (
                "Times the control process was restarted.",
                (),
                [((), float(self._start.restarts))],
            ),
        }
