"""The HTTP port: metrics in the format asked for, probes, and why requests went where they did."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from picker.admin.metrics import Snapshot
from picker.admin.ports import listen
from picker.admin.server import MOST_DECISIONS, Unavailable, start_admin
from tests.admin.test_metrics import snapshot
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat, endpoint, target

TEXT = "text/plain; charset=utf-8"
TWO_SCORERS = HEAD + "plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer, name: kv}]"


class Admin:
    """A server on a free loopback port, and a client of it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.is_ready: bool | None = True
        self.port = 0
        self.asked: list[int] = []

    async def take(self) -> Snapshot:
        plugins = [{"name": "p", "type": "t", "role": "scorer", "calls": 1, "seconds": 0.0, "errors": 0, "overruns": 0,
                    "skipped": 0, "last_error": "boom"}]  # fmt: skip
        return snapshot(self.rig, plugins=plugins)

    async def ready(self) -> bool:
        if self.is_ready is None:
            raise Unavailable("nobody answers")
        return self.is_ready

    async def decisions(self, limit: int) -> list[dict[str, Any]]:
        self.asked.append(limit)
        rows = self.rig.engine.decisions(limit)
        return [{**row, "scores": self.rig.policy.explain(row["scores"])} for row in rows]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Admin"]:
        sockets = listen("127.0.0.1", 0)
        self.port = sockets[0].getsockname()[1]
        runner = await start_admin(take=self.take, decisions=self.decisions, is_ready=self.ready, sockets=sockets)
        try:
            async with aiohttp.ClientSession() as self._client:
                yield self
        finally:
            await runner.cleanup()

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type, body."""
        async with self._client.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    async def json(self, path: str) -> Any:
        status, content_type, body = await self.get(path)
        assert (status, content_type) == (200, "application/json; charset=utf-8")
        return json.loads(body)


def served(test: Callable[[Admin], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Makes a test function of a coroutine that is given a running server over two endpoints."""

    def run() -> None:
        async def body() -> None:
            async with Admin(Rig(TWO_SCORERS, [endpoint(1), endpoint(2)])).running() as admin:
                await test(admin)

        asyncio.run(asyncio.wait_for(body(), 30))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@served
async def test_metrics_come_in_the_format_asked_for(admin: Admin) -> None:
    admin.rig.pick(chat(model="qwen"))
    status, content_type, body = await admin.get("/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "inference_pool_ready_pods" in {family.name for family in parse_text(body)}
    status, content_type, body = await admin.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert "inference_objective_request" in {family.name for family in parse_openmetrics(body)}


@served
async def test_probes(admin: Admin) -> None:
    assert await admin.get("/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert await admin.get("/readyz") == (200, "text/plain; charset=utf-8", "ready\n")
    admin.is_ready = False
    assert await admin.get("/readyz") == (503, "text/plain; charset=utf-8", "not ready\n")
    assert (await admin.get("/healthz"))[0] == 200
    assert (await admin.get("/nothing"))[0] == 404
    admin.is_ready = None  # a data plane that does not answer is neither ready nor alive
    assert await admin.get("/readyz") == await admin.get("/healthz") == (503, TEXT, "nobody answers\n")


@served
async def test_decisions_explain_picks_by_plugin_name(admin: Admin) -> None:
    admin.rig.load(1, waiting=4, kv_usage=0.75)
    admin.rig.load(2, waiting=0, kv_usage=0.5)
    for number in range(3):
        admin.rig.pick(chat(model=f"model-{number}"))
    rows = await admin.json("/debug/decisions")
    assert [row["number"] for row in rows] == [3, 2, 1]
    assert rows[0]["endpoint"] == target(2)
    assert rows[0]["scores"] == {"queue-scorer": 1.0, "kv": 0.5}
    assert (rows[0]["total"], rows[0]["runner_up"], rows[0]["candidates"]) == (1.5, 0.25, 2)


@pytest.mark.parametrize(
    ("query", "asked"), [("", 50), ("?limit=2", 2), ("?limit=-1", 0), ("?limit=999999", MOST_DECISIONS)]
)
def test_as_many_decisions_as_asked_for(query: str, asked: int) -> None:
    @served
    async def body(admin: Admin) -> None:
        for _ in range(3):
            admin.rig.pick()
        assert len(await admin.json(f"/debug/decisions{query}")) == min(asked, 3)
        assert admin.asked == [asked]

    body()


@served
async def test_a_limit_that_is_no_number(admin: Admin) -> None:
    assert await admin.get("/debug/decisions?limit=all") == (
        400,
        "text/plain; charset=utf-8",
        "limit must be a number\n",
    )


@served
async def test_endpoints_and_plugins(admin: Admin) -> None:
    admin.rig.load(2, waiting=4)
    rows = await admin.json("/debug/endpoints")
    assert [(row["target"], row["waiting"]) for row in rows] == [(target(1), -1.0), (target(2), 4.0)]
    (plugin,) = await admin.json("/debug/plugins")
    assert plugin["last_error"] == "boom"
    assert {row["pool"] for row in (*rows, plugin)} == {"pool-a"}


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind() -> None:
    (taken,) = listen("127.0.0.1", 0)
    with taken, pytest.raises(OSError, match="already in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_every_interface_has_one_port() -> None:
    sockets = listen("", 0)
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.enter_context(sock)
        assert {sock.getsockname()[0] for sock in sockets} <= {"0.0.0.0", "::"}
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
