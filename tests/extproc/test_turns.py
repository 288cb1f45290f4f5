"""Requests that wait, on every shell: they are told when their turn comes, or that it never will."""

import asyncio
import json
from typing import Any

from picker._core.engine import Engine
from picker._core.score import PICK_PLUGIN
from tests.support import messages as m
from tests.support.polling import until
from tests.support.streams import TARGETS, Shell, Stream, on_every_shell

BODY = json.dumps({"model": "m", "prompt": "hi"}).encode()
ONE = {"detector": ("concurrency", "requests", 1, 1e12, 0.0)}
MODES = [m.FULL_DUPLEX, m.BUFFERED]


async def ask(shell: Shell, *, mode: int = m.FULL_DUPLEX, **headers: str) -> Stream:
    """A request that picker has read."""
    sessions = shell.engine.sessions
    stream = shell.open()
    await stream.send(m.request_headers("/v1/completions", modes=(mode, m.FULL_DUPLEX), headers=headers))
    if mode == m.BUFFERED:
        await stream.receive()
    await stream.send(m.request_body(BODY))
    await until(lambda: shell.engine.sessions == sessions + 1)
    return stream


async def picked(stream: Stream, *, mode: int = m.FULL_DUPLEX) -> None:
    replies = await stream.receive(2 if mode == m.FULL_DUPLEX else 1)
    assert dict(replies[0].dynamic_metadata["envoy.lb"])


async def error(stream: Stream) -> dict[str, Any]:
    (reply,) = await stream.receive()
    return {"status": reply.immediate_response.status.code, **json.loads(reply.immediate_response.body)["error"]}


async def full(shell: Shell, **rules: Any) -> Stream:
    """Flow control for one request at a time, and that request."""
    shell.engine.set_flow({**ONE, **rules})
    stream = await ask(shell)
    await picked(stream)
    return stream


@on_every_shell(TARGETS[:1])
async def test_the_end_of_another_stream_brings_a_turn(shell: Shell) -> None:
    for mode in MODES:
        first = await full(shell)
        waiting = [await ask(shell, mode=mode) for _ in range(3)]
        await until(lambda: shell.engine.waiting == 3)
        for stream in waiting:
            await first.finish()
            await picked(stream, mode=mode)
            first = stream
        await first.finish()
        await shell.idle()


@on_every_shell(TARGETS[:1])
async def test_an_order_brings_a_turn(shell: Shell) -> None:
    first = await full(shell)
    stream = await ask(shell)
    await until(lambda: shell.engine.waiting == 1)
    shell.engine.add_endpoint(TARGETS[1], "10.0.0.2")
    shell.turn()
    await picked(stream)
    assert [endpoint["requests"] for endpoint in shell.engine.endpoints(0)] == [1, 1]
    await first.finish()
    await stream.finish()


@on_every_shell(TARGETS[:1])
async def test_a_client_that_goes_leaves_the_queue(shell: Shell) -> None:
    first = await full(shell)
    streams = [await ask(shell) for _ in range(3)]
    await until(lambda: shell.engine.waiting == 3)
    await streams[0].cancel()
    await streams[1].half_close()
    await until(lambda: shell.engine.waiting == 1)
    await first.finish()
    await picked(streams[2])
    await streams[2].finish()
    await shell.idle()
    assert sum(one["failures"].get("ContextCancelled", 0) for one in shell.engine.stats()["series"]) == 2


@on_every_shell(TARGETS[:1])
async def test_a_body_that_goes_on_meanwhile(shell: Shell) -> None:
    """Of an API that picker does not read, so that it asks for its turn with its headers."""
    first = await full(shell)
    stream = shell.open()
    await stream.send(m.request_headers("/v1/other"))
    await until(lambda: shell.engine.waiting == 1)
    await stream.send(m.request_body(b"abc", end_of_stream=False), m.request_body(b"def", end_of_stream=False))
    await until(lambda: shell.engine.buffered_bytes == 6)
    await first.finish()
    replies = await stream.receive(2)
    assert replies[1].request_body.response.body_mutation.streamed_response.body == b"abcdef"
    await stream.send(m.request_body(b"ghi", end_of_stream=True))
    (reply,) = await stream.receive()
    assert reply.request_body.response.body_mutation.streamed_response.body == b"ghi"
    await stream.finish()


@on_every_shell(TARGETS[:1])
async def test_what_stops_tells_those_who_wait(shell: Shell) -> None:
    await full(shell)
    stream = await ask(shell)
    await until(lambda: shell.engine.waiting == 1)
    _, told = await asyncio.gather(shell.stop(), error(stream))
    assert told["code"] == "shutting_down"


@on_every_shell(TARGETS[:1])
async def test_all_who_wait_are_told_however_many(shell: Shell) -> None:
    await full(shell)
    waiting = [shell.open() for _ in range(600)]
    for stream in waiting:
        await stream.send(m.request_headers("/v1/completions"), m.request_body(BODY))
    await until(lambda: shell.engine.waiting == len(waiting))
    _, *told = await asyncio.gather(shell.stop(), *map(error, waiting))
    assert {one["code"] for one in told} == {"shutting_down"}


@on_every_shell(TARGETS[:1])
async def test_a_running_request_makes_room(shell: Shell) -> None:
    shell.engine.set_objectives({"low": -1})
    first = await full(shell, evicts=True)
    await first.send(m.response_headers())
    await first.receive()
    await first.finish()  # picker knows that the gateway shows responses
    await shell.idle()
    low = await ask(shell, **{"x-llm-d-inference-objective": "low"})
    await picked(low)
    other = shell.open()
    await other.send(m.request_headers("/v1/completions"), m.request_body(BODY))
    assert (await error(low))["code"] == "evicted"
    assert await low.ended() == "OK"
    await picked(other)
    await other.finish()


class Plugin:
    """Picks the first, and keeps count."""

    def __init__(self, engine: Engine) -> None:
        self.asked = 0
        self.fails = 0
        engine.set_policy([(PICK_PLUGIN, 1.0, (), 0)], plugins=self)

    def __call__(self, step: int, request: dict[str, Any], endpoints: list[dict[str, Any]]) -> list[int]:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a plugin's bug")
        return [endpoints[0]["slot"]]


@on_every_shell()
async def test_plugins_are_asked_behind_the_queue(shell: Shell) -> None:
    """One at a time: what one is given, the next does not count on."""
    plugin = Plugin(shell.engine)
    running = [await full(shell), await full(shell)]
    waiting = [await ask(shell) for _ in range(4)]
    await until(lambda: shell.engine.waiting == 4)
    assert plugin.asked == 2
    for _ in range(2):
        for stream in running:
            await stream.finish()
        running = waiting[:2]
        for stream in running:
            await picked(stream)
        assert [endpoint["requests"] for endpoint in shell.engine.endpoints(0)] == [1, 1]
        waiting = waiting[2:]
    assert plugin.asked == 6
    for stream in running:
        await stream.finish()


@on_every_shell(TARGETS[:1])
async def test_a_plugin_that_raises_behind_the_queue_ends_its_own_request(shell: Shell) -> None:
    plugin = Plugin(shell.engine)
    first = await full(shell)
    bad, good = await ask(shell), await ask(shell)
    await until(lambda: shell.engine.waiting == 2)
    plugin.fails = 1
    await first.finish()
    assert (await error(bad))["status"] == 500
    await picked(good)
    await good.finish()


@on_every_shell(TARGETS[:1])
async def test_a_pool_that_is_served_no_longer_still_gives_turns(shell: Shell) -> None:
    first = await full(shell)
    stream = await ask(shell)
    await until(lambda: shell.engine.waiting == 1)
    for served in (getattr(shell, "extproc", None), getattr(shell, "wire", None)):
        if served is not None:
            served.set_pools([])
    await first.finish()
    await picked(stream)
    await stream.finish()
