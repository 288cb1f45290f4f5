"""A picker or a body-based router in this process, and a client of each of its ports."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.extproc.readiness import Readiness
from tests.support import messages as m
from tests.support.streams import GrpcStream

__all__ = ["COMPLETION", "Running", "running", "until"]

COMPLETION = b'{"model": "m", "prompt": "hi"}'


class Running:
    """One that serves. `app` has `run(stop)` and `ports`; `readiness` is its own."""

    http: aiohttp.ClientSession
    extproc: grpc.aio.Channel
    checks: grpc.aio.Channel

    def __init__(self, app: Any, readiness: Readiness) -> None:
        self.app = app
        self.readiness = readiness
        self.stop = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(app.run(self.stop))

    def stream(self) -> GrpcStream:
        return GrpcStream(self.extproc)

    async def pick(self, body: bytes = COMPLETION, path: str = "/v1/completions") -> tuple[GrpcStream, Any]:
        stream = self.stream()
        await stream.send(m.request_headers(path), m.request_body(body))
        return stream, (await stream.receive(2))[0]

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.app.ports['metrics']}{path}"
        async with self.http.get(url, headers=headers) as response:
            return response.status, await response.text()

    async def counts(self, line: str, value: float) -> bool:
        """Whether the metrics page says so."""
        return f"{line} {float(value)}\n" in (await self.get("/metrics"))[1]

    async def health(self, channel: grpc.aio.Channel | None = None, name: str = "inference-extension") -> int:
        stub = health_pb2_grpc.HealthStub(channel or self.checks)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=name))).status)


@contextlib.asynccontextmanager
async def running(app: Any, readiness: Readiness, *, wait: bool = True) -> AsyncIterator[Running]:
    """Stopped and drained afterwards. With `wait` it is ready, without it only listens."""
    made = Running(app, readiness)
    up = asyncio.ensure_future(readiness.wait_ready() if wait else until(lambda: "ext_proc" in app.ports))
    await asyncio.wait([up, made.task], return_when=asyncio.FIRST_COMPLETED)
    assert not made.task.done(), await made.task
    ports = app.ports
    async with (
        aiohttp.ClientSession() as made.http,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports['ext_proc']}") as made.extproc,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports['health']}") as made.checks,
    ):
        yield made
        made.stop.set()
        await made.task


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Asks again and again; the test has a deadline."""
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.to_thread(os.sched_yield)
