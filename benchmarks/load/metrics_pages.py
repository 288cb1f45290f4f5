"""Many metrics ports in one process: each answers every request with the same page, as cheaply as Python can.

`python -m benchmarks.load.metrics_pages PAGE COUNT` prints the ports, one a line, and then `listening`. Pages come
chunked, as they do from vLLM under uvicorn. What it costs to serve them is not what is measured.
"""

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class PageServer(asyncio.Protocol):
    """One connection: an answer for each end of a request head. Requests have no bodies."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        text = self._tail + data
        for _ in range(text.count(b"\r\n\r\n")):
            self._transport.write(self._answer)
        self._tail = text[-3:]


async def serve(page: bytes, count: int) -> None:
    """Serves `page` on `count` free loopback ports until it is cancelled."""
    answer = HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(page), page)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: PageServer(answer), "127.0.0.1", 0) for _ in range(count)]
    for server in servers:
        print(server.sockets[0].getsockname()[1])
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]).read_bytes(), int(sys.argv[2])))
