"""HTTP/1.1 by hand, for tests that care how bytes are cut into chunks, what stands in a head and what in trailers."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.support.beside import sent_beside

Header = tuple[str, str]
HEAD_BYTES = 1 << 20


@dataclass
class Answer:
    """A response as it came. Names are lower-case; of repeated ones the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)


def head(start: str, headers: Iterable[Header]) -> bytes:
    return "".join([start, "\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode("latin-1")


def chunk(piece: bytes) -> bytes:
    """Not for empty pieces: that would be the end."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def last_chunk(trailers: Iterable[Header] = ()) -> bytes:
    return head("0", trailers)


async def read_headers(reader: asyncio.StreamReader) -> list[Header]:
    found: list[Header] = []
    while line := (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1"):
        name, _, value = line.partition(":")
        found.append((name.lower(), value.strip()))
    return found


async def read_head(reader: asyncio.StreamReader) -> tuple[list[str], list[Header]]:
    """Words of the first line, and the headers. IncompleteReadError when the peer has closed."""
    start = (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1")
    return start.split(" ", 2), await read_headers(reader)


async def read_body(
    reader: asyncio.StreamReader, headers: Sequence[Header], *, until_end: bool = False
) -> tuple[bytes, list[Header]]:
    """Body and trailers. `until_end`: without a length it goes on until the peer closes, else it is empty."""
    named = dict(headers)
    if "chunked" in named.get("transfer-encoding", ""):
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        return bytes(body), await read_headers(reader)
    if "content-length" in named:
        return await reader.readexactly(int(named["content-length"])), []
    return (await reader.read() if until_end else b""), []


async def request(
    address: str,
    path: str,
    *,
    method: str = "POST",
    headers: Iterable[Header] = (),
    pieces: Sequence[bytes] | None = None,
    is_chunked: bool = False,
    trailers: Sequence[Header] = (),
) -> Answer:
    """One request on a connection of its own, its body written piece by piece; no pieces: there is none.

    Trailers need a chunked body. The server may answer before it has read everything.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=HEAD_BYTES)
    sending = _send(writer, address, path, method, headers, pieces, is_chunked, trailers)
    async with sent_beside(sending, writer):
        return await _receive(reader, method)


async def _send(
    writer: asyncio.StreamWriter,
    address: str,
    path: str,
    method: str,
    headers: Iterable[Header],
    pieces: Sequence[bytes] | None,
    is_chunked: bool,
    trailers: Sequence[Header],
) -> None:
    framing: list[Header] = []
    if pieces is not None:
        length = str(sum(map(len, pieces)))
        framing = [("transfer-encoding", "chunked") if is_chunked else ("content-length", length)]
    writer.write(head(f"{method} {path} HTTP/1.1", [("host", address), *headers, *framing]))
    for piece in pieces or ():
        await writer.drain()
        await asyncio.sleep(0)  # so that pieces reach the socket one by one
        writer.write(chunk(piece) if is_chunked and piece else piece)
    if is_chunked:
        writer.write(last_chunk(trailers))
    await writer.drain()


async def _receive(reader: asyncio.StreamReader, method: str) -> Answer:
    (_, status, *_), headers = await read_head(reader)
    has_body = method != "HEAD" and int(status) not in (204, 304)
    body, trailers = await read_body(reader, headers, until_end=True) if has_body else (b"", [])
    return Answer(int(status), dict(headers), body, dict(trailers))
