"""Servers that misbehave as they are told, to see whether a client notices. HTTP/2 frames are written by hand."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
PREFACE = 24
OK, INTERNAL_SERVER_ERROR = b"\x88", b"\x8e"  # HPACK's static table: :status 200 and 500

Answer = Callable[[int], bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field that no table holds."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def opening(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, OK)


def messages(stream: int, count: int, flag: int = 0) -> bytes:
    """gRPC messages of three bytes, in one frame."""
    return frame(DATA, 0, stream, (bytes([flag]) + struct.pack(">I", 3) + b"abc") * count)


def trailers(stream: int, status: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, literal("grpc-status", str(status)))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last_stream: int) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, 0))


def _streams(peer: socket.socket) -> Iterator[int]:
    """Streams that are opened, once their first message has come."""
    data = b""
    seen: set[int] = set()
    while got := peer.recv(1 << 16):
        data += got
        if not seen and data[:3] == b"PRI":
            data = data[PREFACE:]
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            kind, stream = data[3], int.from_bytes(data[5:9], "big")
            data = data[9 + size :]
            if kind == DATA and stream not in seen:
                seen.add(stream)
                yield stream


@contextlib.contextmanager
def _serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that gives each connection, one after the other, to `serve`, and then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    serve(peer)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@contextlib.contextmanager
def http2(answer: Answer) -> Iterator[str]:
    """Answers each stream with the bytes that `answer` makes for its number; no bytes: the connection is closed."""

    def serve(peer: socket.socket) -> None:
        peer.sendall(frame(SETTINGS, 0, 0))
        for stream in _streams(peer):
            said = answer(stream)
            if not said:
                return
            peer.sendall(said)

    with _serving(serve) as address:
        yield address


@contextlib.contextmanager
def http1(said: bytes, *, closes: bool = False) -> Iterator[str]:
    """Says the same to every request; with `closes`, and closes the connection."""

    def serve(peer: socket.socket) -> None:
        data = b""
        while got := peer.recv(1 << 16):
            data += got
            if b"\r\n\r\n" not in data:
                continue
            data = b""
            peer.sendall(said)
            if closes:
                return

    with _serving(serve) as address:
        yield address
