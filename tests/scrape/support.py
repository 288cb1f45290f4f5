"""A model server's metrics port on loopback, and a sink that remembers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from picker.config.settings import ScrapeSettings
from picker.scrape import Scraper
from picker.types import Endpoint, ScrapedLoad

PAGE = b'vllm:num_requests_waiting{engine="0"} 3.0\nvllm:num_requests_running{engine="0"} 2.0\n'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request through `handler` and notes when each came and over which connection."""

    def __init__(self) -> None:
        self.handler: Handler = self.page
        self.body = PAGE
        self.asked: list[float] = []
        self.connections: list[object] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.port = 0

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.body)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(asyncio.get_running_loop().time())
        self.connections.append(request.transport)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.handler(request)
        finally:
            self.at_once -= 1

    def endpoint(self, name: str = "a", **labels: str) -> Endpoint:
        return Endpoint(name=name, address="127.0.0.1", port=self.port, labels=labels)

    def gaps(self) -> list[float]:
        """Seconds between one request and the next."""
        return [round(later - earlier, 3) for earlier, later in zip(self.asked, self.asked[1:], strict=False)]


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A running server; requests in progress are dropped at the end."""
    server = Server()
    app = web.Application()
    app.router.add_get("/metrics", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


class Sink:
    """Keeps what a scraper says, as (endpoint name, load or reason), and lets a test wait for it."""

    def __init__(self, *, busy: bool = False) -> None:
        self.is_busy = busy
        self.heard: list[tuple[str, ScrapedLoad | str]] = []
        self._more = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def busy(self, endpoint: Endpoint) -> bool:
        return self.is_busy

    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        self._hear(endpoint, load)

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        self._hear(endpoint, reason)

    def _hear(self, endpoint: Endpoint, what: ScrapedLoad | str) -> None:
        self.heard.append((endpoint.name, what))
        task = asyncio.get_running_loop().create_task(self._wake())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wake(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def count(self, wanted: int) -> None:
        """Returns once `wanted` results have been heard."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.heard) >= wanted)

    def reasons(self) -> list[str]:
        return [what for _, what in self.heard if isinstance(what, str)]

    def loads(self) -> list[ScrapedLoad]:
        return [what for _, what in self.heard if isinstance(what, ScrapedLoad)]


@asynccontextmanager
async def scraping(
    sink: Sink, *endpoints: Endpoint, settings: ScrapeSettings | None = None, jitter: float = 0.0
) -> AsyncIterator[Scraper]:
    """A running scraper of these endpoints; pauses have their full length unless `jitter` says otherwise."""
    scraper = Scraper(sink, settings=settings or ScrapeSettings(), jitter=lambda: jitter)
    scraper.set_endpoints(endpoints)
    await scraper.start()
    try:
        yield scraper
    finally:
        await scraper.stop()
