"""A model server that shows what reached it, and streams only as fast as the test lets it. Threads; on loopback."""

import hashlib
import http.server
import json
import queue
import threading
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 30.0


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Upstream"

    def do_POST(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.path, headers, body))
        if b'"stream": true' in body:
            self._stream()
        else:
            answer = {"served_by": self.server.name, "sha256": hashlib.sha256(body).hexdigest()}
            self._answer(json.dumps({**answer, **self.server.extra}).encode())

    def do_GET(self) -> None:
        self.server.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, b""))
        self._answer(json.dumps({"served_by": self.server.name}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while event := self.server.leave.get(timeout=TIMEOUT_S):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Not on stderr."""


class Upstream(http.server.ThreadingHTTPServer):
    """Serves from construction to `stop`. `leave`: what a stream may send next; empty bytes end it."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.received: list[Received] = []
        self.extra: dict[str, Any] = {}
        self.leave: queue.Queue[bytes] = queue.Queue()
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away is no error of the server's."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
