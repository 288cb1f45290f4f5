"""Health, by the names gateways and probes ask for: Check, List and Watch, on the port of its own and on ext_proc's."""

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.protocol.player import Player, played

SERVING = health_pb2.HealthCheckResponse.SERVING
NAMES = ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"]
on_each_port = pytest.mark.parametrize("port", ["ext_proc", "health"])


def channel(play: Player, port: str) -> grpc.aio.Channel:
    return play.server.channel() if port == "ext_proc" else play.server.channel(play.health, is_plain=True)


@on_each_port
@pytest.mark.parametrize("name", [*NAMES, "what a manifest may name"])
@played
async def test_check(play: Player, name: str, port: str) -> None:
    async with channel(play, port) as to:
        answer = await health_pb2_grpc.HealthStub(to).Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING


@on_each_port
@played
async def test_list(play: Player, port: str) -> None:
    async with channel(play, port) as to:
        answer = await health_pb2_grpc.HealthStub(to).List(health_pb2.HealthListRequest())
        assert set(NAMES) <= set(answer.statuses)
        assert {one.status for one in answer.statuses.values()} == {SERVING}


@on_each_port
@pytest.mark.parametrize("name", NAMES)
@played
async def test_watch(play: Player, name: str, port: str) -> None:
    """The status at once, and then nothing: the stream stays open."""
    async with channel(play, port) as to:
        call = health_pb2_grpc.HealthStub(to).Watch(health_pb2.HealthCheckRequest(service=name))
        assert (await call.read()).status == SERVING
        assert not call.done()
        call.cancel()


@played
async def test_no_other_service_is_there(play: Player) -> None:
    async with play.server.channel() as to:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await to.unary_unary("/no.such.Service/Method")(b"")
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
