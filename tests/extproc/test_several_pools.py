"""Several pools on every shell: a stream goes where its metadata says, on the fast one where its authority does too."""

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from picker._core.engine import Engine
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.readiness import Readiness
from picker.extproc.shell import POOL_METADATA, Shell, make_shell
from tests.support import messages as m
from tests.support.streams import GrpcStream, engine, within_deadline

on_each_shell = pytest.mark.parametrize("shell", ["grpcio", "wire"])
HOSTS = {"ml/a": "picker-a.ml", "ml/b": "picker-b.ml"}


def engines() -> dict[str, Engine]:
    return {name: engine((f"10.0.0.{number}:8000",)) for number, name in enumerate(HOSTS, 1)}


def serve(shell: Shell, pools: dict[str, Engine]) -> None:
    shell.set_pools([(made, (HOSTS[name],), name) for name, made in pools.items()])


@contextlib.asynccontextmanager
async def running(
    name: str, *, authority: str = "test", **limits: Any
) -> AsyncIterator[tuple[Shell, grpc.aio.Channel]]:
    """The shell, with no pools yet, and a channel to it."""
    sizes = {"grpc_max_recv_msg_bytes": 1 << 20, "grpc_max_send_msg_bytes": 1 << 20}
    listen = ListenSettings(bind_address="127.0.0.1", grpc_port=0, secure_serving=False, shell=name, **sizes)
    shell = make_shell(Readiness(), listen, LimitSettings(**limits))
    port = await shell.start_extproc()
    options = [("grpc.default_authority", authority)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield shell, channel
    finally:
        await shell.stop(0)


def stream(channel: grpc.aio.Channel, pool: str = "") -> GrpcStream:
    return GrpcStream(channel, *([(POOL_METADATA, pool)] if pool else []))


async def ask(of: GrpcStream) -> str:
    """The endpoint that was picked, or what the client is told instead."""
    await of.send(m.request_headers("/v1/models", method="GET", end_of_stream=True))
    (reply,) = await of.receive()
    if reply.WhichOneof("response") == "immediate_response":
        assert reply.immediate_response.status.code == 503
        return str(json.loads(reply.immediate_response.body)["error"]["message"])
    (option,) = reply.request_headers.response.header_mutation.set_headers
    return str(option.header.raw_value.decode())


async def answer(of: GrpcStream) -> None:
    await of.send(m.response_headers(), m.response_body(b"x", end_of_stream=True))
    await of.receive(2)
    assert await of.finish() == "OK"


@on_each_shell
@within_deadline
async def test_metadata_says_which_pool(shell: str) -> None:
    async with running(shell) as (serving, channel):
        pools = engines()
        serve(serving, pools)
        for number, name in enumerate(HOSTS, 1):
            of = stream(channel, name)
            assert await ask(of) == f"10.0.0.{number}:8000"
            assert (pools[name].sessions, serving.open_streams) == (1, 1)
            await answer(of)
        await serving.wait_idle()
        for made in pools.values():
            assert [row["requests"] for row in made.stats()["series"]] == [1]
            assert made.stats()["scheduling_s"][0][-1][1] == 1  # timed by the engine that has picked
        assert serving.unknown_pools == 0


@on_each_shell
@within_deadline
async def test_a_pool_that_is_not_known_is_503(shell: str) -> None:
    async with running(shell) as (serving, channel):
        for pools in ({}, engines()):
            serve(serving, pools)
            of = stream(channel, "ml/c")
            assert await ask(of) == "the endpoint picker serves no pool named 'ml/c'"
            assert await of.ended() == "OK"
        assert serving.unknown_pools == 2
        await serving.wait_idle()


@on_each_shell
@within_deadline
async def test_one_pool_alone_gets_every_stream(shell: str) -> None:
    async with running(shell) as (serving, channel):
        serve(serving, {"ml/a": engines()["ml/a"]})
        of = stream(channel, "ml/c")
        assert await ask(of) == "10.0.0.1:8000"
        await answer(of)


@on_each_shell
@within_deadline
async def test_streams_of_a_pool_that_goes_end_well(shell: str) -> None:
    async with running(shell) as (serving, channel):
        pools = engines()
        serve(serving, pools)
        of = stream(channel, "ml/a")
        assert await ask(of) == "10.0.0.1:8000"
        serve(serving, {"ml/b": pools["ml/b"]})
        late = stream(channel, "ml/a")
        assert await ask(late) == "10.0.0.2:8000"  # the only one there is
        for each in (of, late):
            await answer(each)
        await serving.wait_idle()
        assert (pools["ml/a"].in_flight, pools["ml/b"].in_flight) == (0, 0)


@on_each_shell
@within_deadline
async def test_who_asks_for_an_unknown_pool_has_no_more_time_than_others(shell: str) -> None:
    async with running(shell, request_timeout_s=0.2) as (serving, channel):
        of = stream(channel, "ml/c")
        (reply,) = await of.receive()
        assert reply.immediate_response.status.code == 503
        assert await of.ended() == "OK"
        await serving.wait_idle()


@on_each_shell
@within_deadline
async def test_streams_for_an_unknown_pool_end_as_others_do(shell: str) -> None:
    async with running(shell) as (serving, channel):
        garbage, observed, quiet, gone = (stream(channel, "ml/c") for _ in range(4))
        await garbage.send(b"\xff\xff")
        assert await garbage.ended() == "INVALID_ARGUMENT"
        message = m.ext_proc.ProcessingRequest.FromString(m.request_headers())
        message.observability_mode = True
        await observed.send(message.SerializeToString())
        assert await observed.ended() == "OK"
        assert await quiet.finish() == "OK"
        await gone.cancel()
        await serving.wait_idle()
        assert serving.open_streams == 0


@on_each_shell
@within_deadline
async def test_pools_that_cannot_be_change_nothing(shell: str) -> None:
    async with running(shell) as (serving, channel):
        pools = engines()
        serve(serving, pools)
        with pytest.raises(ValueError, match="names no service"):
            serving.set_pools([(pools["ml/a"], ("",), "ml/a")])
        of = stream(channel, "ml/b")
        assert await ask(of) == "10.0.0.2:8000"
        await of.cancel()


@pytest.mark.parametrize(
    "authority", ["picker-b.ml.svc:9002", "outbound|9002||picker-b.ml.svc.cluster.local", "picker-b"]
)
@within_deadline
async def test_an_authority_says_it_too(authority: str) -> None:
    async with running("wire", authority=authority) as (serving, channel):
        serve(serving, engines())
        of = stream(channel)
        assert await ask(of) == "10.0.0.2:8000"
        await answer(of)
        of = stream(channel, "ml/a")
        assert await ask(of) == "10.0.0.1:8000"
        await answer(of)


@within_deadline
async def test_grpcio_shows_no_authority() -> None:
    """If this fails, it does now: then the reference shell can choose by it, too."""
    async with running("grpcio", authority="picker-b.ml") as (serving, channel):
        serve(serving, engines())
        of = stream(channel)
        assert await ask(of) == "the endpoint picker serves no pool for the authority ''"


class Host:
    """Held by an engine alone."""

    def __call__(self, *_: Any) -> None:
        return None


@on_each_shell
@within_deadline
async def test_an_engine_is_let_go_of_while_the_shell_runs(shell: str) -> None:
    async with running(shell) as (serving, channel):
        pools = engines()
        host = Host()
        gone = weakref.ref(host)
        pools["ml/a"].set_policy([(30, 1.0, (), 0)], plugins=host)
        del host
        serve(serving, pools)
        of = stream(channel, "ml/a")
        assert await ask(of) == "10.0.0.1:8000"
        serve(serving, {"ml/b": pools.pop("ml/b")})
        pools.clear()
        gc.collect()
        assert gone() is not None
        await answer(of)
        while gone() is not None:
            gc.collect()
            await asyncio.sleep(0)
