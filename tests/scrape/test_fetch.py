"""Connections to metrics ports: kept, lost, refused, over TLS; on asyncio's loop in virtual time and on uvloop."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from picker.config.settings import ScrapeSettings
from picker.scrape.fetch import Fetcher, Outcome, PageSource
from picker.types import Endpoint
from tests.scrape.support import PAGE
from tests.support.certificates import self_signed
from tests.support.virtual_time import VirtualLoop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE
LAST_ANSWER = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
DEADLINE_S = 60.0
LEAVE_S = 30.0  # how long asyncio waits for the other end to say goodbye

Run = Callable[[Coroutine[Any, Any, None]], None]
Talk = Callable[["Peer"], Awaitable[None]]


@pytest.fixture(params=[VirtualLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of either kind."""

    def run_it(body: Coroutine[Any, Any, None]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(DEADLINE_S if request.param is not VirtualLoop else None):
                await body

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(in_time())

    return run_it


class Peer:
    """The server's end of one connection. `number`: of the connection, from 0."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.writer = writer
        self._reader = reader

    async def request(self) -> bytes:
        """The next request; b"" if the client has closed."""
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def serve(self, *answers: bytes) -> None:
        for answer in answers:
            if await self.request():
                self.writer.write(answer)

    def reset(self) -> None:
        """Closes without good manners: the client sees ECONNRESET."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Server:
    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.ended: asyncio.Queue[int] = asyncio.Queue()
        """Numbers of connections whose talk has ended."""

    def source(self, fetcher: Fetcher) -> PageSource:
        return fetcher.source(Endpoint(name="a", address="127.0.0.1", port=self.port))


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Talks so on every connection, and closes it then. What a talk raises is raised at the end."""
    server = Server()
    raised: list[Exception] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, server.connections = server.connections, server.connections + 1
        try:
            await talk(Peer(number, reader, writer))
        except Exception as problem:
            raised.append(problem)
        finally:
            writer.close()
            server.ended.put_nowait(number)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server
    for problem in raised:
        raise problem


@asynccontextmanager
async def fetching(settings: ScrapeSettings | None = None) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(settings or ScrapeSettings())
    yield fetcher
    await fetcher.close()


async def fetch(source: PageSource) -> Outcome:
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    source.fetch(outcome.set_result)
    assert not outcome.done()  # never from within
    return await outcome


async def outcomes(talk: Talk, count: int) -> tuple[list[Outcome], int]:
    """What `count` fetches give, one after another, and the connections they took."""
    async with fetching() as fetcher, serving(talk) as server:
        source = server.source(fetcher)
        found = [await fetch(source) for _ in range(count)]
        source.close()
        return found, server.connections


# --- one connection after another ---


def test_a_connection_is_kept(run: Run) -> None:
    async def body() -> None:
        assert await outcomes(lambda peer: peer.serve(*[ANSWER] * 3), 3) == ([PAGE] * 3, 1)

    run(body())


def test_a_server_may_close_after_each_page(run: Run) -> None:
    async def body() -> None:
        assert await outcomes(lambda peer: peer.serve(LAST_ANSWER), 3) == ([PAGE] * 3, 3)
        assert await outcomes(lambda peer: peer.serve(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE), 3) == ([PAGE] * 3, 3)

    run(body())


def test_a_kept_connection_may_be_closed_between_two_fetches(run: Run) -> None:
    async def body() -> None:
        async with fetching() as fetcher, serving(lambda peer: peer.serve(ANSWER)) as server:
            source = server.source(fetcher)
            for _ in range(3):
                assert await fetch(source) == PAGE
                await server.ended.get()
            source.close()
            assert server.connections == 3

    run(body())


@pytest.mark.parametrize("resets", [False, True])
def test_a_request_that_meets_a_closing_connection_is_sent_again(run: Run, resets: bool) -> None:
    async def talk(peer: Peer) -> None:
        await peer.serve(ANSWER)
        if peer.number == 0:
            await peer.request()
            if resets:
                peer.reset()
        else:
            await peer.serve(ANSWER)

    async def body() -> None:
        assert await outcomes(talk, 3) == ([PAGE] * 3, 2)

    run(body())


def test_a_request_is_sent_again_once(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        if peer.number == 0:
            await peer.serve(ANSWER)
        await peer.request()

    async def body() -> None:
        assert await outcomes(talk, 2) == ([PAGE, "http"], 2)

    run(body())


def test_a_fresh_connection_that_is_closed_is_a_failure(run: Run) -> None:
    async def talk(peer: Peer) -> None:
        await peer.request()

    async def body() -> None:
        assert await outcomes(talk, 2) == (["http", "http"], 2)

    run(body())


def test_an_answer_that_is_cut_off_is_a_failure_on_a_kept_connection_too(run: Run) -> None:
    async def body() -> None:
        assert await outcomes(lambda peer: peer.serve(ANSWER, ANSWER[:-1]), 3) == ([PAGE, "http", PAGE], 2)

    run(body())


def test_a_page_cut_off_by_a_reset_is_no_page(run: Run) -> None:
    """Though nothing but the end of the connection could say that it is whole."""

    async def talk(peer: Peer) -> None:
        await peer.serve(b"HTTP/1.0 200 OK\r\n\r\n" + PAGE)
        peer.reset()

    async def body() -> None:
        assert await outcomes(talk, 1) == (["http"], 1)

    run(body())


def test_a_connection_that_speaks_unasked_is_given_up(run: Run) -> None:
    async def body() -> None:
        fetched = asyncio.Event()

        async def talk(peer: Peer) -> None:
            await peer.serve(ANSWER)
            await fetched.wait()
            peer.writer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            assert await peer.request() == b""

        async with fetching() as fetcher, serving(talk) as server:
            source = server.source(fetcher)
            for number in range(2):
                assert await fetch(source) == PAGE
                fetched.set()
                assert await server.ended.get() == number
            source.close()

    run(body())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\nx", b"?", ANSWER + b"x"])
def test_an_answer_that_is_not_read_to_its_end_ends_the_connection(run: Run, answer: bytes) -> None:
    async def talk(peer: Peer) -> None:
        await peer.serve(answer)
        assert await peer.request() == b""

    async def body() -> None:
        assert (await outcomes(talk, 2))[1] == 2

    run(body())


def test_a_large_page_comes_in_many_reads(run: Run) -> None:
    page = bytes(range(256)) * (3 << 12)

    async def body() -> None:
        for head in (b"Content-Length: %d\r\n\r\n" % len(page), b"Transfer-Encoding: chunked\r\n\r\n"):
            whole = page if b"Length" in head else b"%x\r\n%b\r\n0\r\n\r\n" % (len(page), page)
            answer = b"HTTP/1.1 200 OK\r\n" + head + whole
            assert await outcomes(lambda peer, answer=answer: peer.serve(answer, answer), 2) == ([page] * 2, 1)

    run(body())


# --- giving up ---


def test_closing_drops_the_fetch(run: Run) -> None:
    async def body() -> None:
        heard: list[Outcome] = []
        reached = asyncio.Event()

        async def talk(peer: Peer) -> None:
            await peer.request()
            peer.writer.write(ANSWER[:-1])
            reached.set()
            assert await peer.request() == b""

        async with fetching() as fetcher, serving(talk) as server:
            source = server.source(fetcher)
            source.fetch(heard.append)
            with pytest.raises(RuntimeError, match="one fetch"):
                source.fetch(heard.append)
            await reached.wait()
            source.close()
            await server.ended.get()
            assert heard == []

    run(body())


def test_closing_ends_an_attempt_to_connect(run: Run, tmp_path: Path) -> None:
    """To a server that listens and does not answer the TLS greeting."""

    async def body() -> None:
        heard: list[Outcome] = []
        reached = asyncio.Event()

        async def talk(peer: Peer) -> None:
            reached.set()
            await peer.request()

        async with fetching(ScrapeSettings(scheme="https")) as fetcher, serving(talk) as server:
            source = server.source(fetcher)
            source.fetch(heard.append)
            await reached.wait()
            source.close()
            await server.ended.get()
            assert heard == []

    run(body())


def test_closing_at_once(run: Run) -> None:
    async def body() -> None:
        heard: list[Outcome] = []
        async with fetching() as fetcher, serving(lambda peer: peer.serve(ANSWER)) as server:
            source = server.source(fetcher)
            for _ in range(3):
                source.fetch(heard.append)
                source.close()
            assert await fetch(source) == PAGE
            source.close()
        assert heard == []

    run(body())


def test_nobody_there(run: Run) -> None:
    async def body() -> None:
        async with serving(lambda peer: peer.serve(ANSWER)) as server:
            pass
        async with fetching() as fetcher:
            source = server.source(fetcher)
            assert [await fetch(source), await fetch(source)] == ["connect", "connect"]

    run(body())


# --- the request ---


@pytest.mark.parametrize(
    ("address", "path", "line", "host"),
    [
        ("127.0.0.1", "/metrics", "GET /metrics HTTP/1.1", "Host: 127.0.0.1:80"),
        ("2001:db8::1", "/a?b=c&d=%20e", "GET /a?b=c&d=%20e HTTP/1.1", "Host: [2001:db8::1]:80"),
        ("127.0.0.1", "metrics", "GET /metrics HTTP/1.1", "Host: 127.0.0.1:80"),
        ("127.0.0.1", "/a b\r\nX: ü", "GET /a%20b%0D%0AX:%20%C3%BC HTTP/1.1", "Host: 127.0.0.1:80"),
    ],
)
def test_the_request(address: str, path: str, line: str, host: str) -> None:
    source = Fetcher(ScrapeSettings(path=path)).source(Endpoint(name="a", address=address, port=80))
    head, end = source.request.decode().split("\r\n", 1)
    assert head == line
    assert end.startswith(f"{host}\r\n")
    assert end.endswith("\r\n\r\n")


# --- TLS ---


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's, with a certificate for 127.0.0.1; it wants the same certificate of its clients."""
    self_signed(tmp_path, "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "tls.crt"))
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def secure(directory: Path, **others: Any) -> ScrapeSettings:
    certificate, key = str(directory / "tls.crt"), str(directory / "tls.key")
    return ScrapeSettings(scheme="https", client_cert_path=certificate, client_key_path=key, **others)


@pytest.mark.parametrize("answer", [ANSWER, LAST_ANSWER])
def test_pages_over_tls(run: Run, tls: ssl.SSLContext, tmp_path: Path, answer: bytes) -> None:
    async def body() -> None:
        checked = secure(tmp_path, insecure_skip_verify=False, ca_cert_path=str(tmp_path / "tls.crt"))
        for settings in (checked, secure(tmp_path)):
            async with fetching(settings) as fetcher, serving(lambda peer: peer.serve(answer, answer), tls) as server:
                source = server.source(fetcher)
                assert [await fetch(source) for _ in range(4)] == [PAGE] * 4
                assert server.connections == (2 if answer is ANSWER else 4)
                source.close()

    run(body())


def test_a_server_that_does_not_take_leave_holds_nobody_up(run: Run, tls: ssl.SSLContext, tmp_path: Path) -> None:
    async def body() -> None:
        closed = asyncio.Event()

        async def talk(peer: Peer) -> None:
            await peer.serve(LAST_ANSWER)
            peer.writer.transport.pause_reading()
            await closed.wait()
            peer.writer.transport.abort()

        clock = asyncio.get_running_loop().time
        async with serving(talk, tls) as server:
            fetcher = Fetcher(secure(tmp_path))
            source = server.source(fetcher)
            assert [await fetch(source) for _ in range(2)] == [PAGE] * 2
            started = clock()
            await fetcher.close()
            took = clock() - started
            closed.set()
            assert sorted([await server.ended.get(), await server.ended.get()]) == [0, 1]
            assert took < LEAVE_S

    run(body())


def test_a_server_nobody_vouches_for_is_refused(run: Run, tls: ssl.SSLContext, tmp_path: Path) -> None:
    async def body() -> None:
        settings = secure(tmp_path, insecure_skip_verify=False)
        async with fetching(settings) as fetcher, serving(lambda peer: peer.serve(ANSWER), tls) as server:
            assert await fetch(server.source(fetcher)) == "connect"

    run(body())


def test_a_server_may_refuse_us(run: Run, tls: ssl.SSLContext) -> None:
    """With TLS 1.3 the client learns of it only when it reads."""

    async def body() -> None:
        settings = ScrapeSettings(scheme="https")
        async with fetching(settings) as fetcher, serving(lambda peer: peer.serve(ANSWER), tls) as server:
            assert await fetch(server.source(fetcher)) in ("connect", "http")

    run(body())
