"""A connection in memory: what HTTP/2 and gRPC framing cost above the session, without sockets or a loop."""

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import chat
from benchmarks.cases.exchanges import engine_with, request, small_exchange
from picker._core.extproc import ExtProc
from picker._core.h2 import Connection, Server
from picker._core.health import Health
from tests.support.h2memory import MemoryClient
from tests.support.h2peer import framed

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
REQUESTS = 64
SMALL = (3, 5, 6)  # messages of the exchange that come in one read: the request, the response, its end


def server_of(engine_endpoints: int = 8) -> Server:
    return Server([ExtProc(engine_with(engine_endpoints), timeout_ns=10**12).methods()])


def reads(exchange: list[bytes], ends: tuple[int, ...], requests: int) -> tuple[bytes, list[bytes]]:
    """What a client sends to open a connection, then what a socket would be read in.

    Recorded once from the `h2` library against a server of its own, so that HPACK's tables are as they would be.
    """
    client = MemoryClient(server_of(1))
    opening, found = bytes(client.given), []
    for _ in range(requests):
        at = 0
        client.given.clear()
        call = client.open(PATH)
        for end in ends:
            call.send(b"".join(framed(message) for message in exchange[at:end]))
            found.append(bytes(client.given))
            client.given.clear()
            at = end
        call.reset()
        found[-1] += bytes(client.given)
    return opening, found


def connection(requests: int = REQUESTS) -> Action:
    """A connection with small requests, one after the other."""
    server = server_of()
    opening, recorded = reads(small_exchange(), SMALL, requests)
    return running(server, opening, recorded)


def large() -> Action:
    """A connection with a request of 220 KB."""
    exchange = request(chat(220_000))
    opening, recorded = reads(exchange, (len(exchange),), 1)
    return running(server_of(), opening, recorded)


def running(server: Server, opening: bytes, recorded: list[bytes]) -> Action:
    def run() -> None:
        connection = Connection(server, 1)
        connection.feed(opening, 1)
        connection.take()
        for read in recorded:
            connection.feed(read, 2)
            while connection.take() is not None:
                pass
        connection.close(3)

    return run


def health() -> Action:
    """A connection that asks once whether picker is ready."""
    known = Health()
    known.is_ready = True
    client = MemoryClient(Server([known.methods()]))
    opening = bytes(client.given)
    client.given.clear()
    client.open("/grpc.health.v1.Health/Check").send(framed(b""), end_stream=True)
    return running(Server([known.methods()]), opening, [bytes(client.given)])


CASES = [
    Case("h2: small request, its session included", connection, limit=25, per=REQUESTS),
    Case("h2: request of 220 KB, its session included", large),
    Case("health: a connection that asks once", health),
]
GROWTHS = [Growth("h2: a connection with n requests", connection, 16, "n")]
