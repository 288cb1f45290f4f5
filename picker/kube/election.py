"""Leader election by a Lease: one replica of several asks for traffic, the others stand by.

Followers watch the Lease, so what its holder frees is taken at once; of a holder that died, when its lease has run out.
Nothing here ends by itself: faults are told once, counted, and tried again.
"""

import asyncio
import contextlib
import datetime
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from picker.config.settings import ElectionSettings
from picker.errors import KubernetesError, KubernetesRefusal
from picker.kube.client import KubeClient
from picker.kube.lease import SECOND_NS, Action, Candidate, Lease, Terms, lease_from, new_identity

__all__ = ["Election", "lease_name"]

RELEASE_S = 2.0
"""Longest time to let go; after that the lease has to run out."""

WATCH_S = 600
"""How long a server is asked to keep a watch open."""

FORBIDDEN = 403
GONE_OR_OTHER = (404, 409)

_LOG = logging.getLogger("picker.kube.election")


def lease_name(namespace: str, pool: str) -> str:
    """The name that the reference picker (Gateway API Inference Extension) gives its Lease, so that during a swap of
    images the old and the new never both lead. llm-d's is `epp-<namespace>-<pool>.llm-d.ai`: name it by a flag."""
    return f"epp-{namespace}-{pool}.gateway-api-inference-extension.sigs.k8s.io"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Election:
    """One candidate for the Lease `name` in `namespace`. Run it once; `release` lets go.

    `on_lead(until_ns)` is called at every renewal, on the loop: this replica leads until then on the monotonic clock,
    or not at all (0). Whoever is told stops by itself when that time has come, even if this process is no more.
    Raises ValueError for times that cannot work. `identity`: also that of the run before, whose lease it then renews.
    """

    def __init__(
        self,
        settings: ElectionSettings,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        on_lead: Callable[[int], None],
        identity: str = "",
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], datetime.datetime] = _now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        terms = Terms(lease_s=settings.lease_s, renew_s=settings.renew_deadline_s, retry_s=settings.retry_s)
        self.terms_led = 0
        """How often it became leader."""
        self.faults: Counter[str] = Counter()
        """Requests and watches that came to nothing, by cause: the status of HTTP, or `connection`."""
        self._settings, self._client = settings, client
        self._namespace, self._name = namespace, name
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._candidate = Candidate(identity or new_identity(), terms, name=name, namespace=namespace, jitter=jitter)
        self._on_lead, self._clock, self._wall = on_lead, clock, wall
        self._changed = asyncio.Event()
        self._told_ns = 0
        self._troubles: dict[str, str] = {}  # what was logged last, by what was being done
        self._work: asyncio.Future[Any] | None = None
        self._is_released = False

    @property
    def identity(self) -> str:
        """Its name in the Lease."""
        return self._candidate.identity

    @property
    def is_leading(self) -> bool:
        """Whether it leads now."""
        return self._candidate.leads_until_ns > self._clock()

    @property
    def is_holder(self) -> bool:
        """Whether the Lease bears its name, as last seen, even if it leads no more."""
        return self._candidate.is_holder

    @property
    def leader(self) -> str:
        """Who holds the Lease, as last seen; "" if nobody does."""
        return self._candidate.lease.holder if self._candidate.lease else ""

    def counters(self) -> dict[str, tuple[str, Sequence[str], Sequence[tuple[Sequence[str], float]]]]:
        """For the metrics page: by name what it counts, its labels, and its series."""
        faults = [((cause,), float(count)) for cause, count in sorted(self.faults.items())]
        return {
            "picker_election_terms": ("Times this picker became leader.", (), [((), float(self.terms_led))]),
            "picker_election_faults": ("Requests for the Lease that came to nothing, by cause.", ("cause",), faults),
        }

    async def run(self) -> None:
        """Stands for election until released (then it returns) or cancelled (then the lease has to run out)."""
        if self._is_released:
            return
        _LOG.info("standing for election: lease=%s/%s identity=%s", self._namespace, self._name, self.identity)
        self._work = asyncio.gather(self._campaign(), self._follow())
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._is_released:
                raise
        finally:
            self._step_down()

    async def release(self) -> None:
        """Leads no more from now on, and frees the Lease if it holds it, so that another leads at once.

        Takes at most `RELEASE_S`, and raises nothing: what cannot be freed runs out.
        """
        self._is_released = True
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait([self._work])
        self._step_down()
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._let_go()
        except (KubernetesError, TimeoutError) as problem:
            _LOG.warning("the lease could not be released and must run out: %s", str(problem) or "no answer in time")

    # The campaign.

    async def _campaign(self) -> None:
        while True:
            try:
                await self._act(self._candidate.step(self._clock()))
            except Exception:
                _LOG.exception("a fault in the election")
                self._candidate.failed(self._clock(), self._clock())
            self._tell()

    async def _act(self, action: Action) -> None:
        if action is Action.WAIT:
            return await self._wait()
        sent_ns = self._clock()
        try:
            if action is Action.READ:
                notices = self._candidate.notices
                lease = await self._read()
                self._candidate.read(lease, self._clock(), notices=notices)
            else:
                self._candidate.wrote(await self._write(action), sent_ns)
            self._overcome("asking")
        except KubernetesRefusal as refusal:
            if action is Action.READ or refusal.status not in GONE_OR_OTHER:
                return self._fail(sent_ns, refusal, refusal.retry_after_s)
            _LOG.debug("another was faster: %s", refusal)
            self._candidate.stale(self._clock())
        except KubernetesError as problem:
            self._fail(sent_ns, problem)

    async def _wait(self) -> None:
        """Until something is due, or something has changed."""
        now_ns, candidate = self._clock(), self._candidate
        due_ns = candidate.due_ns
        if candidate.leads_until_ns > now_ns:  # to say when it is over
            due_ns = min(due_ns, candidate.leads_until_ns)
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(due_ns - now_ns, 0) / SECOND_NS):
                await self._changed.wait()

    def _fail(self, sent_ns: int, problem: KubernetesError, after_s: float = 0.0) -> None:
        self._trouble("asking", problem)
        self._candidate.failed(sent_ns, self._clock(), after_s=after_s)

    def _tell(self) -> None:
        """Says what is new, once."""
        until_ns = self._candidate.leads_until_ns
        if until_ns <= self._clock():
            until_ns = 0
        if until_ns == self._told_ns:
            return
        if not self._told_ns:
            self.terms_led += 1
            _LOG.info("leading: lease=%s/%s identity=%s", self._namespace, self._name, self.identity)
        elif not until_ns and not self._is_released:
            _LOG.warning("not leading any more: the lease was lost or could not be renewed: holder=%s", self.leader)
        self._told_ns = until_ns
        self._on_lead(until_ns)

    def _step_down(self) -> None:
        self._candidate.resign()
        self._tell()

    async def _let_go(self) -> None:
        candidate = self._candidate
        while True:
            if not candidate.is_holder:  # a claim may have been under way
                candidate.read(await self._read(), self._clock(), notices=candidate.notices)
            if not candidate.is_holder:
                return
            try:
                await self._put(candidate.resignation(self._wall()))
            except KubernetesRefusal as refusal:
                if refusal.status not in GONE_OR_OTHER:
                    raise
                candidate.lease = None
            else:
                candidate.lease = None
                _LOG.info("released the lease: lease=%s/%s", self._namespace, self._name)
                return

    # The watch.

    async def _follow(self) -> None:
        while True:
            started_ns = self._clock()
            try:
                await self._watch()
            except KubernetesError as problem:
                self._trouble("watching", problem)
            except Exception:
                _LOG.exception("a fault in the watch of the lease")
            self._candidate.unwatched(self._clock())
            self._changed.set()
            lasted_s = (self._clock() - started_ns) / SECOND_NS
            await asyncio.sleep(max(self._settings.retry_s - lasted_s, 0))

    async def _watch(self) -> None:
        """One watch: begins with the Lease as it is, for no version is named. While it lives its holder renews."""
        query: dict[str, str | int] = {"fieldSelector": f"metadata.name={self._name}", "timeoutSeconds": WATCH_S}
        async with self._client.watch(self._leases, query=query, idle_s=self._settings.lease_s) as lines:
            self._candidate.is_watched = True
            async for line in lines:
                self._take(line)
                self._overcome("watching")

    def _take(self, line: bytes) -> None:
        event = _decoded(line)
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("ADDED", "MODIFIED"):
            self._candidate.notice(lease_from(event.get("object")), self._clock())
        elif kind == "DELETED":
            self._candidate.notice(None, self._clock())
        elif kind != "BOOKMARK":
            raise KubernetesError(f"watching {self._leases}: {line[:200]!r}")
        self._changed.set()

    # What is sent.

    async def _read(self) -> Lease | None:
        try:
            return await self._ask("GET", f"{self._leases}/{self._name}")
        except KubernetesRefusal as refusal:
            if refusal.status != 404:
                raise
            return None

    async def _write(self, action: Action) -> Lease:
        claim = self._candidate.claim(self._wall())
        lease = await (self._ask("POST", self._leases, claim) if action is Action.CREATE else self._put(claim))
        if lease.holder != self.identity:
            raise KubernetesError(f"the Lease that was written bears another name: {lease.holder!r}")
        return lease

    async def _put(self, body: dict[str, Any]) -> Lease:
        return await self._ask("PUT", f"{self._leases}/{self._name}", body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Lease:
        timeout_s = self._settings.renew_deadline_s / 2
        return lease_from(_decoded(await self._client.request(method, path, body=body, timeout_s=timeout_s)))

    # Troubles.

    def _trouble(self, doing: str, problem: KubernetesError) -> None:
        """Counted each time, logged when it is another than before."""
        status = problem.status if isinstance(problem, KubernetesRefusal) else 0
        cause = str(status or "connection")
        self.faults[cause] += 1
        if self._troubles.get(doing) == cause:
            return
        self._troubles[doing] = cause
        hint = f"; {self._grant()}" if status == FORBIDDEN else ""
        _LOG.warning("leader election has a fault, trying on: doing=%s cause=%s: %s%s", doing, cause, problem, hint)

    def _overcome(self, doing: str) -> None:
        if self._troubles.pop(doing, ""):
            _LOG.info("leader election works again: doing=%s", doing)

    def _grant(self) -> str:
        rule = 'apiGroups ["coordination.k8s.io"] resources ["leases"] verbs ["get", "watch", "create", "update"]'
        return f"grant picker's ServiceAccount, by a Role in namespace {self._namespace}: {rule}"


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError as problem:
        raise KubernetesError(f"an answer that is no JSON: {problem}") from problem
