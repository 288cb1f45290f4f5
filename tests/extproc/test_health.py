"""gRPC health: the names gateways, probes and manifests ask for (PROTOCOL 1.6), and what they see change.

All of it on each shell, on the port of its own (9003) and on that of ext_proc (9002, with --health-checking).
A name nobody knows follows readiness, as with the reference picker where no leader is elected.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.grpcio import GrpcioShell
from picker.extproc.readiness import Readiness
from picker.extproc.shell import Rules
from picker.extproc.wire import WireShell
from tests.support.streams import within_deadline

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
FOLLOWING = ["", "readiness", "inference-extension", EXT_PROC, "whatever a manifest may name"]
SHELLS = {"grpcio": GrpcioShell, "wire": WireShell}

PORTS = ("health", "ext_proc")

on_each_shell = pytest.mark.parametrize("shell", [f"{shell} {port}" for shell in SHELLS for port in PORTS])


@contextlib.asynccontextmanager
async def stub(shell: str, readiness: Readiness, **options: bool) -> AsyncIterator[Any]:
    """A client of the shell's health service on one of its ports."""
    name, _, where = shell.partition(" ")
    sizes = {"grpc_max_recv_msg_bytes": 1 << 20, "grpc_max_send_msg_bytes": 1 << 20}
    listen = ListenSettings(
        bind_address="127.0.0.1",
        grpc_port=0,
        grpc_health_port=0,
        secure_serving=False,
        health_checking=where == "ext_proc",
        **sizes,
    )
    running = SHELLS[name](readiness, listen, LimitSettings(), Rules(**options))
    port = await (running.start_extproc() if where == "ext_proc" else running.start_health())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health_pb2_grpc.HealthStub(channel)
    finally:
        await running.stop(0)


async def check(asked: Any, service: str) -> int:
    return int((await asked.Check(health_pb2.HealthCheckRequest(service=service))).status)


@on_each_shell
@pytest.mark.parametrize("service", FOLLOWING)
@within_deadline
async def test_names_follow_readiness(shell: str, service: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness) as asked:
        assert (readiness.is_ready, await check(asked, service)) == (False, NOT_SERVING)
        readiness.set_ready(True)
        assert (readiness.is_ready, await check(asked, service)) == (True, SERVING)
        readiness.set_ready(False)
        assert await check(asked, service) == NOT_SERVING


@on_each_shell
@pytest.mark.parametrize("size", [127, 128, 300, 20_000])
@within_deadline
async def test_names_may_be_long(shell: str, size: int) -> None:
    readiness = Readiness()
    async with stub(shell, readiness) as asked:
        assert await check(asked, "n" * size) == NOT_SERVING
        readiness.set_ready(True)
        assert await check(asked, "n" * size) == SERVING


@on_each_shell
@within_deadline
async def test_liveness_always_serves(shell: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness) as asked:
        assert await check(asked, "liveness") == SERVING
        readiness.set_ready(True)
        readiness.set_ready(False)
        assert await check(asked, "liveness") == SERVING


@on_each_shell
@within_deadline
async def test_where_a_leader_is_elected_other_names_are_not_known(shell: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness, leader_election=True) as asked:
        for ready in (False, True):
            readiness.set_ready(ready)
            told = [await check(asked, name) for name in ("", "readiness", EXT_PROC)]
            assert told == [SERVING if ready else NOT_SERVING] * 3
            assert await check(asked, "liveness") == SERVING
            for name in ("inference-extension", "whatever a manifest may name"):
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await check(asked, name)
                assert (refusal.value.code(), refusal.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")


@on_each_shell
@within_deadline
async def test_who_watches_what_is_not_known_is_told_so_and_waits(shell: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness, leader_election=True) as asked:
        watch = asked.Watch(health_pb2.HealthCheckRequest(service="inference-extension"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        other = asked.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await other.read()).status == NOT_SERVING
        readiness.set_ready(True)
        assert (await other.read()).status == SERVING
        assert not watch.done()


@on_each_shell
@within_deadline
async def test_list_leaves_out_what_is_not_known(shell: str) -> None:
    async with stub(shell, Readiness(), leader_election=True) as asked:
        if not hasattr(asked, "List"):
            pytest.skip("grpcio-health-checking of this version knows no List")
        statuses = (await asked.List(health_pb2.HealthListRequest())).statuses
    assert set(statuses) == {"", "liveness", "readiness", EXT_PROC}


@on_each_shell
@within_deadline
async def test_list_names_them_all(shell: str) -> None:
    async with stub(shell, Readiness()) as asked:
        if not hasattr(asked, "List"):
            pytest.skip("grpcio-health-checking of this version knows no List")
        statuses = (await asked.List(health_pb2.HealthListRequest())).statuses
        told = {name: answer.status for name, answer in statuses.items()}
    assert told == {"liveness": SERVING, **dict.fromkeys(FOLLOWING[:4], NOT_SERVING)}


@on_each_shell
@within_deadline
async def test_watch_sees_readiness_change(shell: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness) as asked:
        watches = [asked.Watch(health_pb2.HealthCheckRequest(service=name)) for name in FOLLOWING]
        for ready in (False, True, False, True):
            readiness.set_ready(ready)
            told = [(await watch.read()).status for watch in watches]
            assert told == [SERVING if ready else NOT_SERVING] * len(FOLLOWING)


@on_each_shell
@within_deadline
async def test_saying_the_same_again_is_no_change(shell: str) -> None:
    readiness = Readiness()
    async with stub(shell, readiness) as asked:
        watch = asked.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == NOT_SERVING
        readiness.set_ready(False)
        assert await check(asked, "") == NOT_SERVING  # a round trip: a second message would be on its way
        readiness.set_ready(True)
        assert (await watch.read()).status == SERVING


@on_each_shell
@within_deadline
async def test_a_watch_does_not_keep_the_server_from_stopping(shell: str) -> None:
    async with stub(shell, Readiness()) as asked:
        watch = asked.Watch(health_pb2.HealthCheckRequest(service="liveness"))
        assert (await watch.read()).status == SERVING
    assert (await watch.code()) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
