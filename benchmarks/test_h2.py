"""A connection in memory: what HTTP/2 and gRPC framing cost above the session, without sockets or a loop."""

import time

from benchmarks.test_session import engine_with, life, small_exchange
from picker._core.extproc import ExtProc
from picker._core.h2 import Connection, Server
from tests.support.h2memory import MemoryClient
from tests.support.h2peer import framed
from tests.support.streams import PATH

REQUESTS = 64
PHASES = (3, 5, 6)  # messages of the exchange that come in one read: the request, the response, its end


def reads(exchange: list[bytes]) -> tuple[bytes, list[bytes]]:
    """What a client sends to open a connection, then what a socket would be read in, for `REQUESTS` requests.

    Recorded once from the `h2` library against a server of its own, so that HPACK's tables are as they would be.
    """
    client = MemoryClient(Server([ExtProc(engine_with(1), timeout_ns=10**12).methods()]))
    opening, found = bytes(client.given), []
    for _ in range(REQUESTS):
        at = 0
        client.given.clear()
        call = client.open(PATH)
        for end in PHASES:
            call.send(b"".join(framed(message) for message in exchange[at:end]))
            found.append(bytes(client.given))
            client.given.clear()
            at = end
        call.reset()
        found[-1] += bytes(client.given)
    return opening, found


def test_small_request_above_the_session(seconds, target) -> None:
    exchange = small_exchange()
    engine = engine_with(8)
    server = Server([ExtProc(engine, timeout_ns=10**12).methods()])
    opening, recorded = reads(exchange)

    def run() -> None:
        connection = Connection(server, 1)
        connection.feed(opening, 1)
        connection.take()
        for read in recorded:
            connection.feed(read, 2)
            connection.take()
        connection.close(3)

    whole = seconds(run) / REQUESTS
    assert server.counters()["calls"] % REQUESTS == 0
    alone = best_of(life(engine, exchange))
    target("h2: small request above `session`", (whole - alone) * 1e6, 10.0, "us")


def best_of(action, rounds: int = 2000) -> float:
    """Best seconds of one call; for what a row is told relative to."""
    best = 1.0
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
    return best
