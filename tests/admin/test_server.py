"""The HTTP port: metrics in the format asked for, probes, and why requests went where they did."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from picker.admin.metrics import Snapshot
from picker.admin.ports import listen
from picker.admin.server import MOST_DECISIONS, Judge, Unavailable, start_admin
from picker.config.settings import AdminSettings
from picker.control.admin import admin_certificate
from tests.admin.test_metrics import snapshot
from tests.support.certificates import Authority, client_context, self_signed
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat, endpoint, target

TEXT = "text/plain; charset=utf-8"
TWO_SCORERS = HEAD + "plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer, name: kv}]"


class Admin:
    """A server on a free loopback port, and a client of it."""

    def __init__(self, rig: Rig, judge: Judge | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.rig = rig
        self._judge, self._tls = judge, tls
        self.trusts: ssl.SSLContext | None = None
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
        runner = await start_admin(
            take=self.take,
            decisions=self.decisions,
            is_ready=self.ready,
            sockets=sockets,
            judge=self._judge,
            tls=self._tls,
        )
        try:
            async with aiohttp.ClientSession() as self._client:
                yield self
        finally:
            await runner.cleanup()

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type, body."""
        url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{path}"
        async with self._client.get(url, headers=headers, ssl=self.trusts or True) as response:
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


@served
async def test_the_queue_is_told_as_json_and_as_a_table(admin: Admin) -> None:
    (view,) = await admin.json("/debug/queue")
    assert (view["pool"], view["is_on"], view["waiting"]) == ("pool-a", False, 0)
    assert [endpoint["endpoint"] for endpoint in view["endpoints"]] == [target(1), target(2)]
    status, content_type, table = await admin.get("/debug/queue?format=text")
    assert (status, content_type) == (200, TEXT)
    assert table.startswith("pool-a: 0 wait") and target(2) in table


class Doorkeeper:
    """Lets in whoever says so, and notes who came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def judge(self, said: str, path: str) -> tuple[int, str]:
        self.asked.append((said, path))
        return {"Bearer in": (200, ""), "": (401, "who?\n")}.get(said, (403, "no\n"))


def test_who_asks_for_what_is_shown() -> None:
    async def body() -> None:
        keeper = Doorkeeper()
        async with Admin(Rig(TWO_SCORERS, [endpoint(1)]), keeper.judge).running() as admin:
            for path in ("/metrics", "/debug/decisions", "/debug/endpoints", "/debug/plugins", "/debug/queue"):
                assert await admin.get(path) == (401, TEXT, "who?\n")
                assert await admin.get(path, Authorization="Bearer out") == (403, TEXT, "no\n")
                assert (await admin.get(f"{path}?limit=1", Authorization="Bearer in"))[0] == 200
                assert keeper.asked[-3:] == [("", path), ("Bearer out", path), ("Bearer in", path)]
            del keeper.asked[:]
            assert (await admin.get("/healthz"))[0] == (await admin.get("/readyz"))[0] == 200
            assert (await admin.get("/nothing"))[0] == 404
            assert keeper.asked == []

    asyncio.run(asyncio.wait_for(body(), 30))


def test_who_is_unknown_is_told_how_to_say_who_he_is() -> None:
    async def body() -> None:
        async with Admin(Rig(TWO_SCORERS, [endpoint(1)]), Doorkeeper().judge).running() as admin:
            async with admin._client.get(f"http://127.0.0.1:{admin.port}/metrics") as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_metrics_over_tls_and_for_known_clients_alone(tmp_path: Path, loop: Callable[[], Any]) -> None:
    directories = [tmp_path / name for name in ("server", "client", "stranger", "new")]
    server, client, stranger, new = directories
    for directory in directories:
        directory.mkdir()
    clients = Authority.named("clients")
    (server / "ca.crt").write_bytes(clients.pem)
    self_signed(server, "IP:127.0.0.1")
    clients.issue(client)
    self_signed(stranger)

    async def body() -> None:
        made = AdminSettings(cert_dir=str(server), client_ca_file=str(server / "ca.crt"), cert_reload=True)
        certificate = admin_certificate(made)
        assert certificate is not None
        async with Admin(Rig(TWO_SCORERS, [endpoint(1)]), None, certificate.context).running() as admin:
            admin.trusts = client_context(server, shows=client)
            assert (await admin.get("/metrics"))[0] == 200
            for shows in (None, stranger):
                admin.trusts = client_context(server, shows=shows)
                with pytest.raises(aiohttp.ClientError):
                    await admin.get("/healthz")
            self_signed(new, "IP:127.0.0.1")
            for file in ("tls.crt", "tls.key"):
                (new / file).replace(server / file)
            assert certificate.renew(10**18)
            async with aiohttp.ClientSession() as admin._client:  # a connection of its own
                admin.trusts = client_context(server, shows=client)
                assert (await admin.get("/healthz"))[0] == 200

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(body(), 30))


def test_without_a_certificate_it_speaks_plain_http() -> None:
    assert admin_certificate(AdminSettings()) is None
    with pytest.raises(OSError, match="--metrics-cert-dir"):
        admin_certificate(AdminSettings(cert_dir="/nowhere"))


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
