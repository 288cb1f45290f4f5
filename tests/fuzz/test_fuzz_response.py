"""Mutated responses in random pieces: a page, FetchFailed or more to come, and the pieces make no difference."""

import asyncio
import random
from typing import Any

from picker.scrape.connection import Connection, Outcome
from picker.scrape.failures import REASONS, FetchFailed
from picker.scrape.response import ResponseReader
from tests.support.fuzz import CASES, cuts, mutants

LIMIT = 200
OK = b"HTTP/1.1 200 OK\r\n"
NOTHING = b"Content-Length: 0\r\n\r\n"
CORPUS = [
    OK + b"Content-Length: 10\r\n\r\nm 1\nm 2\nx\n",
    OK + b"transfer-encoding: chunked\r\n\r\n4\r\nm 1\n\r\n6;a=b\r\nm 2\nx\n\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nm 1\nm 2\nx\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + NOTHING + b"HTTP/1.1 404 No\r\n" + NOTHING,
]
TOKENS = [
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b" ",
        b":",
        b";",
        b"0\r\n\r\n",
        b"1\r\n",
        b"ff\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"101",
        b"304",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: 999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ),
    *(
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"\x00",
        b"\xff",
    ),
]


def outcome(pieces: list[bytes], ends: bool) -> bytes | str | None:
    reader = ResponseReader(LIMIT)
    try:
        for piece in pieces:
            if reader.feed(memoryview(piece)):
                return bytes(reader.take())
        if ends:
            reader.end()
            return bytes(reader.take())
    except FetchFailed as failure:
        return failure.reason
    finally:
        reader.close()
    return None


def test_mutated_responses_in_any_pieces() -> None:
    rng = random.Random(1)
    for case, text in mutants(CORPUS, TOKENS):
        ends = rng.random() < 0.5
        whole = outcome([text], ends)
        assert whole is None or isinstance(whole, str) or len(whole) <= LIMIT, f"case {case}: {text!r}"
        assert outcome(cuts(rng, text), ends) == whole, f"case {case}: {text!r}"


# --- the connection around it ---


class Transport:
    """Takes all and says nothing. Any: what a connection does not use of a transport is not there."""

    def __init__(self) -> None:
        self.is_open = True

    def write(self, data: bytes) -> None:
        assert self.is_open

    def is_closing(self) -> bool:
        return not self.is_open

    def abort(self) -> None:
        self.is_open = False

    close = abort


class Asker:
    """Asks again after every page, as long as the connection lets it."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.asked = 0

    def connected(self, connection: Connection) -> None:
        self.asked += 1
        connection.ask(b"GET / HTTP/1.1\r\n\r\n")

    def answered(self, connection: Connection, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if connection.is_usable:
            self.connected(connection)


def converse(pieces: list[bytes], end: Exception | None) -> Asker:
    """What becomes of a connection on which these pieces come, and then its end."""
    buffer = memoryview(bytearray(64))
    asker, transport = Asker(), Transport()
    connection = Connection(asker, ResponseReader(LIMIT), buffer)
    made: Any = transport
    connection.connection_made(made)
    for piece in pieces:
        for start in range(0, len(piece), len(buffer)):
            part = piece[start : start + len(buffer)]
            connection.get_buffer(-1)[: len(part)] = part
            if transport.is_open:
                connection.buffer_updated(len(part))
    connection.connection_lost(end)
    assert not connection.is_usable
    return asker


def test_every_request_has_one_outcome_whatever_comes() -> None:
    async def body() -> None:
        rng = random.Random(2)
        for case, text in mutants([*CORPUS, *(text * 3 for text in CORPUS)], TOKENS, cases=CASES // 2):
            asker = converse(cuts(rng, text), rng.choice([None, ConnectionResetError()]))
            assert len(asker.outcomes) == asker.asked, f"case {case}: {text!r}"
            for outcome in asker.outcomes:
                assert outcome in REASONS if isinstance(outcome, str) else len(outcome) <= LIMIT, f"case {case}"

    asyncio.run(body())
