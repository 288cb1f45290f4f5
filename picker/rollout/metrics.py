"""What both sides counted: metrics pages of picker's pods, by way of the API server, or of addresses given."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import aiohttp

from picker.bodies import whole_body
from picker.errors import KubernetesError, KubernetesRefusal, UsageError, printable
from picker.kube.client import KubeClient
from picker.rollout.counting import Counting, Source
from picker.rollout.figures import Figures, sum_of
from picker.rollout.machine import Sight
from picker.rollout.pages import PageError, Side, knows_pools, read_page
from picker.rollout.pods import Pod, PoolObject, metrics_port, pods_of, read_pod, service_of

__all__ = ["Direct", "Metrics", "Pages", "PodPages", "UrlPages"]

READ_S = 5.0
"""Longest that one page may take."""
MOST_PAGE_BYTES = 64 << 20
UNAUTHORIZED = 401


class Pages(Protocol):
    """Where the pages of a side are."""

    async def read(self) -> dict[Source, str]:
        """Every page, by the process that shows it. Raises KubernetesError or PageError if one cannot be read."""
        ...


class Direct:
    """Pages read over HTTP. The token file is read each time: what writes it renews it."""

    def __init__(
        self, session: aiohttp.ClientSession, *, token_file: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._session, self._token_file, self._tls = session, token_file, tls

    async def fetch(self, url: str) -> str:
        """The page. Raises PageError."""
        timeout = aiohttp.ClientTimeout(total=READ_S)
        try:
            headers = {"Authorization": f"Bearer {self._token()}"} if self._token_file else {}
            tls = self._tls if self._tls is not None else True
            async with self._session.get(url, headers=headers, timeout=timeout, ssl=tls) as response:
                if response.status != 200:
                    raise PageError(f"{url} answers {response.status}{_hint(response.status)}")
                return (await whole_body(response, MOST_PAGE_BYTES)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise PageError(f"{url}: {printable(str(problem) or type(problem).__name__)}") from None

    def _token(self) -> str:
        return Path(self._token_file).read_text().strip()


def _hint(status: int) -> str:
    return "; give a token that may read it with --metrics-token-file" if status in (401, 403) else ""


class PodPages:
    """The ready pods of a pool's endpoint picker: by way of the API server, or `direct`, where pods can be reached.

    `port`: 0 finds it out; `scheme`: http or https.
    """

    def __init__(
        self, client: KubeClient, pool: PoolObject, *, port: int = 0, scheme: str = "http", direct: Direct | None = None
    ) -> None:
        self._client, self._pool, self._port, self._scheme, self._direct = client, pool, port, scheme, direct

    @property
    def place(self) -> tuple[str, str]:
        """Where these pods are found; two pools of one picker have them in common."""
        return self._pool.namespace, self._pool.picker

    async def read(self) -> dict[Source, str]:
        """The page of each."""
        service = await service_of(self._client, self._pool)
        pods = [pod for pod in await pods_of(self._client, service.namespace, service.labels) if pod.is_ready]
        if not pods:
            raise PageError(f"no pod of Service {service.namespace}/{service.name} is ready")
        texts = await asyncio.gather(*(self._page(pod, metrics_port(pod, service, self._port)) for pod in pods))
        return {pod.source: text for pod, text in zip(pods, texts, strict=True)}

    async def _page(self, pod: Pod, port: int) -> str:
        if self._direct is not None:
            return await self._direct.fetch(f"{self._scheme}://{pod.host}:{port}/metrics")
        scheme = "https" if self._scheme == "https" else ""
        try:
            page = await read_pod(self._client, pod, port, "/metrics", scheme=scheme, timeout_s=READ_S)
        except KubernetesRefusal as refusal:
            if refusal.status != UNAUTHORIZED:
                raise
            what = f"pod {pod.namespace}/{pod.name} wants a token for its metrics, which an API server does not pass on"
            raise PageError(f"{what}; run this in the cluster, or give the pages with --metrics") from None
        return page.decode(errors="replace")


class UrlPages:
    """Pages at addresses given."""

    def __init__(self, direct: Direct, urls: Sequence[str]) -> None:
        self._direct, self._urls = direct, tuple(urls)

    async def read(self) -> dict[Source, str]:
        """The page at each address."""
        texts = await asyncio.gather(*(self._direct.fetch(url) for url in self._urls))
        return {Source(url): text for url, text in zip(self._urls, texts, strict=True)}


class _Half(NamedTuple):
    """One side, where its pages are, and what it has counted."""

    side: Side
    pages: Pages
    counting: Counting


class Metrics:
    """Both sides. `look` again and again; pages that both have in common are read once."""

    def __init__(self, old: tuple[Side, Pages], new: tuple[Side, Pages]) -> None:
        self._old, self._new = _Half(*old, Counting()), _Half(*new, Counting())

    @property
    def totals(self) -> tuple[Figures, Figures]:
        """What both had counted in all at the last look."""
        return self._old.counting.totals, self._new.counting.totals

    async def look(self, elapsed_s: float) -> Sight:
        """What was counted since the last look; never raises for what cannot be read."""
        halves = [self._old] if self._new.pages is self._old.pages else [self._old, self._new]
        read = await asyncio.gather(*(half.pages.read() for half in halves), return_exceptions=True)
        texts_old, texts_new = read[0], read[-1]
        old, why_old = _counted(self._old, texts_old)
        new, why_new = _counted(self._new, texts_new)
        return Sight(
            elapsed_s=elapsed_s, old=old, new=new, problem="; ".join(dict.fromkeys(filter(None, (why_old, why_new))))
        )

    async def check(self) -> tuple[Figures, Figures]:
        """Reads all pages once; what both sides have counted in all.

        Raises KubernetesError or PageError if that cannot be; UsageError if the pages do not part the sides.
        """
        old, new = await self._old.pages.read(), await self._new.pages.read()
        found = []
        for texts, side in ((old, self._old.side), (new, self._new.side)):
            found.append(sum_of(read_page(text, side) for text in texts.values()))
        shared = [old[source] for source in old.keys() & new.keys()]
        if self._old.side.pool != self._new.side.pool and not all(map(knows_pools, shared)):
            what = "both pools have one endpoint picker, and its metrics do not tell pools apart"
            raise UsageError(f"{what}; give each pool an endpoint picker of its own")
        return found[0], found[1]


def _counted(half: _Half, texts: dict[Source, str] | BaseException) -> tuple[Figures | None, str]:
    if isinstance(texts, (KubernetesError, PageError, UsageError, TimeoutError)):
        return None, str(texts) or "no answer in time"
    if isinstance(texts, BaseException):
        raise texts
    try:
        pages = {source: read_page(text, half.side) for source, text in texts.items()}
    except PageError as problem:
        return None, str(problem)
    return half.counting.look(pages), ""
