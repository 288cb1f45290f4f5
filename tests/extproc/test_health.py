"""gRPC health: the names gateways, probes and manifests ask for (PROTOCOL 1.6), and what they see change."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.extproc.grpcio import start_server
from picker.extproc.health import Health
from tests.support.streams import within_deadline

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
FOLLOWING = ["", "readiness", "inference-extension", EXT_PROC, "whatever a manifest may name"]


@contextlib.asynccontextmanager
async def stub(health: Health) -> AsyncIterator[Any]:
    server, port = await start_server([health.handler()], address="127.0.0.1", port=0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(0)


async def check(asked: Any, service: str) -> int:
    return int((await asked.Check(health_pb2.HealthCheckRequest(service=service))).status)


@pytest.mark.parametrize("service", FOLLOWING)
@within_deadline
async def test_names_follow_readiness(service: str) -> None:
    health = Health()
    async with stub(health) as asked:
        assert (health.is_ready, await check(asked, service)) == (False, NOT_SERVING)
        health.set_ready(True)
        assert (health.is_ready, await check(asked, service)) == (True, SERVING)
        health.set_ready(False)
        assert await check(asked, service) == NOT_SERVING


@within_deadline
async def test_liveness_always_serves() -> None:
    health = Health()
    async with stub(health) as asked:
        assert await check(asked, "liveness") == SERVING
        health.set_ready(True)
        health.set_ready(False)
        assert await check(asked, "liveness") == SERVING


@within_deadline
async def test_list_names_them_all() -> None:
    async with stub(Health()) as asked:
        if not hasattr(asked, "List"):
            pytest.skip("grpcio-health-checking of this version knows no List")
        statuses = (await asked.List(health_pb2.HealthListRequest())).statuses
        told = {name: answer.status for name, answer in statuses.items()}
    assert told == {"liveness": SERVING, **dict.fromkeys(FOLLOWING[:4], NOT_SERVING)}


@within_deadline
async def test_watch_sees_readiness_change() -> None:
    health = Health()
    async with stub(health) as asked:
        watches = [asked.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", EXT_PROC)]
        for ready in (False, True, False, True):
            health.set_ready(ready)
            assert [(await watch.read()).status for watch in watches] == [SERVING if ready else NOT_SERVING] * 2


@within_deadline
async def test_saying_the_same_again_is_no_change() -> None:
    health = Health()
    async with stub(health) as asked:
        watch = asked.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == NOT_SERVING
        health.set_ready(False)
        assert await check(asked, "") == NOT_SERVING  # a round trip: a second message would be on its way
        health.set_ready(True)
        assert (await watch.read()).status == SERVING


@within_deadline
async def test_a_watch_does_not_keep_the_server_from_stopping() -> None:
    health = Health()
    async with stub(health) as asked:
        watch = asked.Watch(health_pb2.HealthCheckRequest(service="liveness"))
        assert (await watch.read()).status == SERVING
    assert (await watch.code()) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
