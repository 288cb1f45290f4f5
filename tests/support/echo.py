"""A model server that answers with what it was sent, and keeps a record of how it arrived, to the last header."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.http1 import HEAD_BYTES, Header, chunk, head, last_chunk, read_body, read_head

EVENTS = [
    *(b'data: {"choices":[{"delta":{"content":"token %d"}}]}\n\n' % number for number in range(20)),
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":20}}\n\n',
    b"data: [DONE]\n\n",
]
"""What a request with `x-answer: sse` is answered."""
TRAILERS = [("x-tail", "the end")]


@dataclass
class Arrived:
    """A request as it reached the server. Names of headers are lower-case."""

    method: str
    path: str
    headers: list[Header]
    body: bytes
    trailers: list[Header]
    served_by: str

    def header(self, name: str) -> str | None:
        """The last of that name."""
        return dict(self.headers).get(name)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Echo:
    """`address` is where it listens, `arrived` what has come.

    A request's header `x-answer` says what it wants: `sse` (EVENTS, chunk by chunk), `trailers` (its body, chunked, and
    TRAILERS), `nothing` (204), or else its own body with a content-length. `x-fails` names servers (comma list of
    addresses, or `once`: whoever is first to see it) that answer 503.
    """

    address: str = ""
    arrived: list[Arrived] = field(default_factory=list)
    fellows: "list[Echo]" = field(default_factory=list)
    open: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self.open.add(task)
        task.add_done_callback(self.open.discard)

    async def close(self) -> None:
        """End what is open."""
        for task in self.open:
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (method, path, _), headers = await read_head(reader)
                body, trailers = await read_body(reader, headers)
                request = Arrived(method, path, headers, body, trailers, self.address)
                fails = self._fails(request)
                self.arrived.append(request)
                for part in self._answer(request, fails=fails):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)

    def taken(self, mark: str) -> list[Arrived]:
        """What has come with that `x-request-mark`; it is forgotten here."""
        found = [one for one in self.arrived if one.header("x-request-mark") == mark]
        self.arrived = [one for one in self.arrived if one.header("x-request-mark") != mark]
        return found

    def _fails(self, request: Arrived) -> bool:
        name = request.header("x-fails") or ""
        if name != "once":
            return self.address in name.split(",")
        mark = request.header("x-request-mark")
        return not any(mark == other.header("x-request-mark") for fellow in self.fellows for other in fellow.arrived)

    def _answer(self, request: Arrived, *, fails: bool) -> list[bytes]:
        proof = [("x-served-by", self.address), ("x-body-sha256", request.sha256)]
        wanted = request.header("x-answer") or "echo"
        if fails:
            return [head("HTTP/1.1 503 Service Unavailable", [*proof, ("content-length", "4")]), b"busy"]
        if wanted == "nothing":
            return [head("HTTP/1.1 204 No Content", proof)]
        if wanted == "sse":
            kind = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
            return [head("HTTP/1.1 200 OK", [*proof, *kind]), *map(chunk, EVENTS), last_chunk()]
        kind = [("content-type", request.header("content-type") or "application/json")]
        if wanted == "trailers":
            kind.append(("transfer-encoding", "chunked"))
            body = [chunk(request.body)] if request.body else []
            return [head("HTTP/1.1 200 OK", [*proof, *kind]), *body, last_chunk(TRAILERS)]
        kind.append(("content-length", str(len(request.body))))
        return [head("HTTP/1.1 200 OK", [*proof, *kind]), request.body]


@contextlib.asynccontextmanager
async def echoes(count: int) -> AsyncIterator[list[Echo]]:
    """Servers that listen on free ports, in the running loop."""
    fellows: list[Echo] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            echo = Echo(fellows=fellows)
            server = await asyncio.start_server(echo.accept, "127.0.0.1", 0, limit=HEAD_BYTES)
            echo.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            fellows.append(echo)
            stack.push_async_callback(echo.close)
            stack.callback(server.close)
        yield fellows
