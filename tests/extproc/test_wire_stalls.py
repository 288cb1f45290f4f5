"""Peers that do not read: they are soon not read from, and nobody else suffers."""

import asyncio
import socket

from picker.extproc import wire
from tests.support.h2client import H2Client
from tests.support.h2service import PROCESS
from tests.support.sockets import (
    PART,
    PARTS,
    STREAMS,
    Deaf,
    echoed,
    eventually,
    flood,
    on_each_loop,
    pick,
    running,
    server_of,
)
from tests.support.streams import WireStream, engine


@on_each_loop
async def test_a_peer_that_never_reads_is_not_read_from() -> None:
    async with running(made := engine()) as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        await eventually(lambda: len(server_of(shell).peers) == 1)
        (peer,) = server_of(shell).peers
        data = flood()
        sent = await deaf.send_until_stuck(data, lambda: peer._is_full)
        assert sent < len(data) - (4 << 20)
        assert not peer._transport.is_reading()
        assert peer._transport.get_write_buffer_size() < wire.WRITE_BUFFER_BYTES + (1 << 19)
        assert peer.connection.pending < 1 << 20
        async with H2Client(port) as other:  # nobody else is kept waiting
            stream = WireStream(other, PROCESS)
            await pick(stream)
            assert await stream.finish() == "OK"
        assert peer._is_full
        deaf.close()
        await eventually(lambda: made.sessions == 0)
        assert server_of(shell).core.open_calls == 0


@on_each_loop
async def test_a_peer_that_reads_again_gets_all_there_is() -> None:
    async with running() as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        await eventually(lambda: len(server_of(shell).peers) == 1)
        (peer,) = server_of(shell).peers
        data = flood()
        sent = await deaf.send_until_stuck(data, lambda: peer._is_full)
        received = asyncio.ensure_future(deaf.read_all())
        await deaf.send(data[sent:])
        counted = server_of(shell).core.counters
        await eventually(lambda: counted()["messages"] == len(STREAMS) * (1 + PARTS))
        await eventually(lambda: not peer.connection.pending and not peer._transport.get_write_buffer_size())
        assert peer._transport.is_reading()
        deaf.socket.shutdown(socket.SHUT_WR)
        assert echoed(await received) == dict.fromkeys(STREAMS, PART * PARTS)
        await eventually(lambda: not server_of(shell).peers)
        deaf.close()


@on_each_loop
async def test_stopping_does_not_wait_for_a_peer_that_never_reads() -> None:
    async with running(made := engine()) as (shell, port):
        deaf = Deaf()
        await deaf.open(port)
        server = server_of(shell)
        await eventually(lambda: len(server.peers) == 1)
        (peer,) = server.peers
        await deaf.send_until_stuck(flood(), lambda: peer._is_full)
        await shell.stop(0)
        await eventually(lambda: not server.peers)
        assert made.sessions == 0
        deaf.close()
