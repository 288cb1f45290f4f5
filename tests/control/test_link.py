"""Messages between two ends of a socket: in order, whole, one a turn, and never more than the other end takes."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from picker.control.link import MOST_FRAME_BYTES, MOST_WAITING, Link
from picker.control.messages import Ask, Change, End, FromControl, FromData, Text
from tests.support.streams import within_deadline


class Ends:
    """A control end and a data end, joined; what the data end takes is kept."""

    def __init__(self, take: Callable[[FromControl], None] | None = None) -> None:
        self.taken: list[FromControl] = []
        self.answers: list[FromData] = []
        self.more = asyncio.Event()
        self.control: Link[FromData] = Link(FromData, self._hear)
        self.data: Link[FromControl] = Link(FromControl, take or self._take)

    def _hear(self, message: FromData) -> None:
        self.answers.append(message)
        self.more.set()

    def _take(self, message: FromControl) -> None:
        self.taken.append(message)
        self.more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.more.clear()
            await self.more.wait()


@contextlib.asynccontextmanager
async def joined(take: Callable[[FromControl], None] | None = None) -> AsyncIterator[Ends]:
    ends = Ends(take)
    one, other = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: ends.control, sock=one)
    await loop.create_connection(lambda: ends.data, sock=other)
    try:
        yield ends
    finally:
        ends.control.close()
        ends.data.close()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn


@within_deadline
async def test_messages_arrive_in_order_whatever_their_size() -> None:
    async with joined() as ends:
        sizes = [0, 1, 70_000, 3, 2_000_000, 5]
        ends.data.send(Text(b"x" * size) for size in sizes)
        ends.data.send([End()])
        ends.control.send([Ask("busy"), Change("p", ("10.0.0.1:80",), ())])
        await ends.until(lambda: len(ends.answers) == 7 and len(ends.taken) == 2)
        assert ends.answers == [*(Text(b"x" * size) for size in sizes), End()]
        assert ends.taken == [Ask("busy"), Change("p", ("10.0.0.1:80",), ())]


@within_deadline
async def test_one_message_is_made_a_turn() -> None:
    """So that what else runs on the loop comes in between."""
    turns = 0
    made: list[int] = []

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    def messages() -> Iterator[Text]:
        for _ in range(20):
            made.append(turns)
            yield Text(b"x")

    async with joined() as ends:
        count()
        ends.data.send(messages())
        await ends.until(lambda: len(ends.answers) == 20)
        assert len(set(made)) == 20


@within_deadline
async def test_one_message_is_taken_a_turn() -> None:
    turns = 0
    taken: list[int] = []

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    def take(_: FromControl) -> None:
        taken.append(turns)
        ends.more.set()

    async with joined(take) as ends:
        count()
        ends.control.send([Ask("busy")] * 20)
        await ends.until(lambda: len(taken) == 20)
        assert len(set(taken)) == 20


@within_deadline
async def test_nothing_is_made_that_the_other_end_does_not_take() -> None:
    made = 0

    def endless() -> Iterator[Text]:
        nonlocal made
        while made < 1000:
            made += 1
            yield Text(b"x" * 100_000)

    ours, theirs = socket.socketpair()
    with theirs:
        link: Link[FromControl] = Link(FromControl, lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        link.send(endless())
        seen = -1
        while made != seen:  # until a few turns in a row make none
            seen = made
            for _ in range(20):
                await asyncio.sleep(0)
        assert 0 < made < 100
        link.close()
        assert link.closed.is_set()
        await asyncio.sleep(0)


@within_deadline
async def test_no_more_is_read_than_can_be_handled() -> None:
    """Frames wait in the socket, whoever sends how many."""
    async with joined() as ends:
        transport = ends.data._transport
        assert transport is not None
        frame = ends.control._encode(Ask("busy"))
        ends.data.data_received((len(frame).to_bytes(4, "little") + frame) * (MOST_WAITING + 1))
        assert not transport.is_reading()
        await ends.until(lambda: len(ends.taken) == MOST_WAITING + 1)
        assert transport.is_reading()


@pytest.mark.parametrize(
    "data",
    [
        (3).to_bytes(4, "little") + b"\xc1\xc1\xc1",
        (2).to_bytes(4, "little") + b"\x91\xa1",
        (MOST_FRAME_BYTES + 1).to_bytes(4, "little"),
    ],
    ids=["no msgpack", "another message", "too long"],
)
def test_what_is_no_message_ends_the_link(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    @within_deadline
    async def body() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            link: Link[FromControl] = Link(FromControl, lambda _: None)
            await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            theirs.send(data)
            await link.closed.wait()
            await asyncio.sleep(0)

    body()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_taker_that_fails_ends_the_link(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: FromControl) -> None:
        raise RuntimeError("boom")

    @within_deadline
    async def body() -> None:
        async with joined(fail) as ends:
            ends.control.send([Ask("busy")])
            await ends.data.closed.wait()
            await ends.control.closed.wait()
            ends.control.send([Ask("busy")])  # to nobody

    body()
    assert "boom" in caplog.text
