"""An exception at every step of a shell, through a real Envoy: no request is answered 2xx whose body arrived otherwise.

A step is whatever Python does for a stream that can fail: each message taken or given, each call into the core, each
plugin. One run without a fault counts them; then each one fails in turn, in several ways.
"""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from picker._core.engine import Engine
from picker.config.settings import LimitSettings, ListenSettings
from picker.demo.envoy import EnvoyProcess, Gateway, gateways_config
from picker.extproc import grpcio, wire
from picker.extproc.readiness import Readiness
from tests.e2e.matrix import CHAT, chat
from tests.support import http2
from tests.support.echo import TRAILERS, Echo, echoes
from tests.support.sockets import LOOPS, eventually

pytestmark = pytest.mark.e2e

GATEWAYS = {
    "closed": Gateway(),
    "open": Gateway(failure_mode_allow=True, steering="header"),
    "buffered": Gateway("BUFFERED", "BUFFERED"),
    "buffered, open": Gateway("BUFFERED", "BUFFERED", failure_mode_allow=True, steering="header"),
}
SMALL, LARGE = chat(300), chat(200_000)
PICK_BY_PLUGIN = [(33, 1.0, (), 0)]
MOST = 60


class Fault(Exception):
    """Not one the code under test knows."""


@dataclass
class Plan:
    """Which step fails, and how. Steps are counted as they come."""

    at: int = -1
    raises: type[BaseException] = Fault
    steps: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        self.steps.append(name)
        if len(self.steps) - 1 == self.at:
            raise self.raises(f"at {name}")

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def checked(*given: Any, **named: Any) -> Any:
            self.step(name)
            return call(*given, **named)

        return checked


class Breaking:
    """Another object, some calls of which are steps."""

    def __init__(self, inner: Any, plan: Plan, names: tuple[str, ...]) -> None:
        self._inner, self._plan, self._names = inner, plan, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._plan.wrap(name, found) if name in self._names else found


# --- the shells, each step of which can fail ---


@contextlib.asynccontextmanager
async def grpcio_shell(engine: Engine, plan: Plan, patch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Awaits: each message read and written. Calls: each into the session."""
    session = grpcio.Session

    def opened(*given: Any) -> Breaking:
        plan.step("open")
        return Breaking(session(*given), plan, ("feed", "refuse"))

    process = grpcio.ExtProc.process

    async def breaking(self: Any, request: Any, context: Any) -> None:
        await process(self, request, Breaking(context, plan, ("read", "write")))

    patch.setattr(grpcio, "Session", opened)
    patch.setattr(grpcio.ExtProc, "process", breaking)
    async with serving(grpcio.GrpcioShell, engine) as port:
        yield port


@contextlib.asynccontextmanager
async def wire_shell(engine: Engine, plan: Plan, patch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Calls: each into the connection, and what the loop calls."""
    made = wire._Peer.connection_made

    def connected(self: Any, transport: Any) -> None:
        made(self, transport)
        self.connection = Breaking(self.connection, plan, ("received", "take"))

    patch.setattr(wire._Peer, "connection_made", connected)
    async with serving(wire.WireShell, engine) as port:
        yield port


@contextlib.asynccontextmanager
async def serving(shell: Any, engine: Engine) -> AsyncIterator[int]:
    sizes = {"grpc_max_recv_msg_bytes": 1 << 24, "grpc_max_send_msg_bytes": 1 << 24}
    listen = ListenSettings(bind_address="127.0.0.1", grpc_port=0, secure_serving=False, **sizes)
    running = shell(Readiness(), listen, LimitSettings())
    running.set_pools([(engine, (), "")])
    try:
        yield await running.start_extproc()
    finally:
        await running.stop(0)


def plugin_host(plan: Plan) -> Any:
    """Where a plugin would answer: a picker that takes the first."""

    def host(step: int, asked: Any, endpoints: Any) -> list[float]:
        plan.step("plugin")
        return [endpoints[0]["slot"]]

    return host


SHELLS = {"grpcio": grpcio_shell, "wire": wire_shell}


# --- what goes through them ---


@dataclass
class Bench:
    addresses: dict[str, str]
    servers: list[Echo]

    async def demand(self, listener: str, body: bytes, plan: Plan) -> int:
        """One request: its status, 0 if the client's connection was cut. No 2xx unless the body arrived as sent."""
        trailers = TRAILERS if body is SMALL else []
        sending = http2.request(self.addresses[listener], CHAT, pieces=[body], trailers=trailers)
        try:
            answer = await asyncio.wait_for(sending, 20)
        except (asyncio.IncompleteReadError, OSError):
            answer = None
        arrived = [one for server in self.servers for one in server.arrived]
        for server in self.servers:
            server.arrived.clear()
        what = f"{listener}, step {plan.at} ({plan.steps[plan.at : plan.at + 1]}), {plan.raises.__name__}"
        assert all(one.body == body for one in arrived), f"{what}: {[len(one.body) for one in arrived]} bytes arrived"
        if answer is None or answer.status >= 300:
            return answer.status if answer else 0
        assert arrived, f"{what}: {answer.status}, and nothing arrived"
        assert answer.body == body, f"{what}: {len(answer.body)} bytes came back"
        return answer.status


@contextlib.asynccontextmanager
async def bench(shell: str, plan: Plan, patch: pytest.MonkeyPatch, directory: Path) -> AsyncIterator[Bench]:
    engine = Engine(hash_seed=1)
    engine.set_policy(PICK_BY_PLUGIN, plugins=plugin_host(plan))
    async with echoes(1) as servers, SHELLS[shell](engine, plan, patch) as port:
        engine.add_endpoint(servers[0].address, "127.0.0.1")
        gateways = {name: (f"127.0.0.1:{port}", replaced) for name, replaced in GATEWAYS.items()}
        envoy = EnvoyProcess(gateways_config([servers[0].address], gateways), directory)
        try:
            await asyncio.to_thread(envoy.wait_ready)
            yield Bench(envoy.addresses, servers)
            await asyncio.wait_for(eventually(lambda: engine.in_flight == 0), 10)
        finally:
            envoy.stop()


# What the code under test knows of and what it does not. grpc.aio cancels a handler only when its stream is gone.
FAULTS: list[tuple[str, type[BaseException]]] = [
    *(("grpcio", kind) for kind in (Fault, MemoryError, TimeoutError, OverflowError, OSError)),
    *(("wire", kind) for kind in (Fault, MemoryError, TimeoutError, asyncio.CancelledError)),
]
CASES = list(itertools.product(GATEWAYS, (SMALL, LARGE)))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("shell", "raises"), FAULTS)
def test_no_fault_forges_a_request(
    loop: str, shell: str, raises: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Plan(raises=raises)

    async def body() -> None:
        async with bench(shell, plan, monkeypatch, tmp_path) as running:
            for listener, sent in CASES:
                plan.at, plan.steps = -1, []
                assert await running.demand(listener, sent, plan) == 200, "without a fault"
                count = min(len(plan.steps), MOST)
                assert "plugin" in plan.steps
                failed = 0
                for at in range(count):
                    plan.at, plan.steps = at, []
                    failed += await running.demand(listener, sent, plan) not in (200, 204)
                plan.at = -1
                assert failed or GATEWAYS[listener].failure_mode_allow, f"{listener}: no fault was noticed"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(body(), 240))
