"""Every way a stream goes, ended or broken at every step, on every shell: nothing half is said, nothing is left behind.

A life is what a gateway sends, message by message, and how many replies each gets. There is one endpoint, so that a
life gets the same replies every time: what is told of a broken one must be the beginning of that, or a refusal.
"""

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

from picker._core import alloc
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.streams import CoreShell, Shell, Stream, on_every_shell

BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
GARBAGE = b"\xff\xff\xff\xff"
RENAMED = {"x-gateway-model-name-rewrite": "another"}
DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE = m.FULL_DUPLEX, m.BUFFERED, m.BUFFERED_PARTIAL, m.STREAMED, m.NONE
RESPONSE = [
    (m.response_headers(), 1),
    (m.response_body(b'data: {"choices":[]}\n\n'), 1),
    (m.response_body(b"data: [DONE]\n\n", end_of_stream=True), 1),
]
TRAILED = [*RESPONSE[:2], (m.response_trailers(), 1)]


def headers(mode: int, path: str = "/v1/chat/completions", **more: Any) -> bytes:
    return m.request_headers(path, modes=(mode, mode), **more)


def part(body: bytes) -> bytes:
    return m.request_body(body, end_of_stream=False)


LIVES: dict[str, list[tuple[bytes, int]]] = {
    "duplex": [(headers(DUPLEX), 0), (part(BODY[:9]), 0), (part(BODY[9:]), 0), (m.request_body(b""), 2), *RESPONSE],
    "last chunk": [(headers(DUPLEX), 0), (part(BODY[:9]), 0), (m.request_body(BODY[9:]), 2), *RESPONSE],
    "trailers": [(headers(DUPLEX), 0), (part(BODY), 0), (m.request_trailers(), 3), *TRAILED],
    "ended twice": [(headers(DUPLEX), 0), (m.request_body(BODY), 2), (m.request_body(b""), 0), *RESPONSE],
    "renamed": [(headers(DUPLEX, headers=RENAMED), 0), (m.request_body(BODY), 2), *RESPONSE],
    "passed on": [(headers(DUPLEX, "/x"), 1), (part(b"abc"), 1), (m.request_body(b""), 1), *RESPONSE],
    "headers only": [(headers(DUPLEX, method="GET", end_of_stream=True), 1), *RESPONSE],
    "buffered": [(headers(BUFFERED), 1), (m.request_body(BODY), 1), *RESPONSE],
    "buffered, trailers": [(headers(BUFFERED), 1), (part(BODY), 1), (m.request_trailers(), 1), *TRAILED],
    "buffered, renamed": [(headers(BUFFERED, headers=RENAMED), 1), (m.request_body(BODY), 1), *RESPONSE],
    "buffered, passed on": [(headers(BUFFERED, "/x"), 1), (m.request_body(b"abc"), 1), *RESPONSE],
    "cut": [(headers(PARTIAL), 1), (part(BODY[:20]), 1), *RESPONSE],
    "streamed": [(headers(STREAMED), 1), (part(BODY[:9]), 1), (m.request_body(BODY[9:]), 1), *RESPONSE],
    "streamed, trailers": [(headers(STREAMED), 1), (part(BODY), 1), (m.request_trailers(), 1), *TRAILED],
    "none": [(headers(NONE), 1), RESPONSE[0]],
}
of_every_life = pytest.mark.parametrize("name", LIVES)
of_one_endpoint = on_every_shell(targets=("10.0.0.1:8000",))


@dataclass(frozen=True)
class Told:
    """What picker said of a stream, and how it ended."""

    replies: list[Any]
    status: str


async def live(stream: Stream, name: str, steps: int) -> list[Any]:
    replies = []
    for message, count in LIVES[name][:steps]:
        await stream.send(message)
        replies += await stream.receive(count)
    return replies


async def rest(stream: Stream) -> Told:
    """All that is still said; the status is an error, too, if the connection went with the stream."""
    replies: list[Any] = []
    while True:
        try:
            replies += await stream.receive()
        except AssertionError:
            break
    try:
        return Told(replies, await stream.ended())
    except AssertionError:
        return Told(replies, "CLOSED")


async def whole(shell: Shell, name: str) -> list[Any]:
    """The replies of an undisturbed life."""
    stream = shell.open()
    replies = await live(stream, name, len(LIVES[name]))
    assert await stream.finish() == "OK"
    return replies


def assert_nothing_half(told: Told, undisturbed: list[Any]) -> None:
    """An end as if all were well comes behind all that was to be said, or behind a refusal."""
    *before, last = [*told.replies, None]
    if before and before[-1].HasField("immediate_response"):
        *before, last = before
    assert before == undisturbed[: len(before)]
    assert told.status != "OK" or last is not None or before == undisturbed


# --- ends ---


@of_every_life
@of_one_endpoint
async def test_a_life_is_counted_once(shell: Shell, name: str) -> None:
    replies = await whole(shell, name)
    assert len(replies) == sum(count for _, count in LIVES[name])
    assert sum(reply.HasField("dynamic_metadata") for reply in replies) == 1  # where the pick is
    await shell.idle()
    assert shell.engine.stats()["picked"] == 1
    assert sum(series["requests"] for series in shell.engine.stats()["series"]) == 1
    assert [series["failures"] for series in shell.engine.stats()["series"]] == [{}]


def steps_of(name: str) -> range:
    """After how many messages a life can end."""
    return range(len(LIVES[name]) + 1)


async def assert_released(shell: Shell) -> None:
    await shell.idle()
    engine = shell.engine
    assert (engine.sessions, engine.in_flight, engine.buffered_bytes) == (0, 0, 0)


@of_every_life
@of_one_endpoint
async def test_a_client_that_leaves_releases_what_was_booked(shell: Shell, name: str) -> None:
    for steps in steps_of(name):
        stream = shell.open()
        await live(stream, name, steps)
        await stream.cancel()
        assert await stream.ended() == "CANCELLED"
        await assert_released(shell)


@of_every_life
@of_one_endpoint
async def test_a_gateway_that_has_no_more_to_say_releases_what_was_booked(shell: Shell, name: str) -> None:
    for steps in steps_of(name):
        stream = shell.open()
        await live(stream, name, steps)
        assert await stream.finish() == "OK"
        await assert_released(shell)


@of_every_life
@of_one_endpoint
async def test_picker_stops(shell: Shell, name: str) -> None:
    """With a stream at each step."""
    streams = [shell.open() for _ in steps_of(name)[1:]]
    for steps, stream in enumerate(streams, 1):
        await live(stream, name, steps)
    while shell.engine.sessions < len(streams):  # noqa: ASYNC110  the core sets no events
        await asyncio.sleep(0)
    await shell.stop()
    for stream in streams:
        if isinstance(shell, CoreShell):
            await stream.cancel()
        assert await rest(stream) in [Told([], status) for status in ("UNAVAILABLE", "CANCELLED", "CLOSED")]
    await assert_released(shell)


# --- what breaks ---


@of_every_life
@of_one_endpoint
async def test_nonsense_is_never_an_end_as_if_all_were_well(shell: Shell, name: str) -> None:
    undisturbed = await whole(shell, name)
    for steps, nonsense in itertools.product(steps_of(name), (GARBAGE, headers(DUPLEX), headers(7))):
        if steps == 0 and nonsense == headers(DUPLEX):
            continue
        stream = shell.open()
        replies = await live(stream, name, steps)
        await stream.send(nonsense)
        assert await rest(stream) == Told([], "INVALID_ARGUMENT")
        assert replies == undisturbed[: len(replies)]
        await assert_released(shell)


class Broken:
    """A plugin host with a bug."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def __call__(self, *_: object) -> None:
        raise self.problem


@pytest.mark.parametrize(("problem", "status"), [(ZeroDivisionError("a bug"), 500), (MemoryError(), None)])
@of_every_life
@of_one_endpoint
async def test_a_plugin_host_that_raises(shell: Shell, name: str, problem: Exception, status: int | None) -> None:
    undisturbed = await whole(shell, name)
    shell.engine.set_policy([(20, 1.0, (), 0), (30, 1.0, (), 0)], plugins=Broken(problem))
    stream = shell.open()
    replies: list[Any] = []
    for message, count in LIVES[name]:
        await stream.send(message)
        if count:
            replies += await stream.receive()
            if replies[-1].HasField("immediate_response"):
                break
            replies += await stream.receive(count - 1)
    assert await rest(stream) == Told([], "OK")
    assert replies[:-1] == undisturbed[: len(replies) - 1]
    assert replies[-1].immediate_response.status.code in ((status,) if status else (429, 500))
    await shell.idle()
    assert sum(sum(series["failures"].values()) for series in shell.engine.stats()["series"]) == 1


async def with_failing(shell: Shell, name: str, after: int) -> tuple[Told, bool]:
    """A life in which an allocation fails, with `after` before it; whether there were so many."""
    stream = shell.open()
    alloc.fail_allocation(after)
    try:
        for message, _ in LIVES[name]:
            await stream.send(message)
        await stream.half_close()
        told = await rest(stream)
    finally:
        has_failed = not alloc.fail_allocation(-1)
    return told, has_failed


@debug_build_only
@of_every_life
@of_one_endpoint
async def test_without_memory_nothing_half_is_said(shell: Shell, name: str) -> None:
    shell.engine.set_policy([(20, 1.0, (), 0), (30, 1.0, (), 0)], plugins=lambda *_: [1.0])
    undisturbed = await whole(shell, name)
    for after in itertools.count():
        told, has_failed = await with_failing(shell, name, after)
        assert_nothing_half(told, undisturbed)
        await shell.renew()
        await assert_released(shell)
        if not has_failed:
            break
    assert told == Told(undisturbed, "OK")
    assert after > 3


# --- gateways that only show what passes ---


@of_every_life
@of_one_endpoint
async def test_what_is_only_shown_is_not_answered(shell: Shell, name: str) -> None:
    first, *others = [m.observed(message) for message, _ in LIVES[name]]
    stream = shell.open()
    await stream.send(first)
    assert await rest(stream) == Told([], "OK")
    await stream.send(*others)
    await shell.idle()
    stats = shell.engine.stats()
    assert stats["picked"] == stats["not_picked"] == 0
    assert [(series["requests"], series["failures"]) for series in stats["series"]] == [(1, {})]
