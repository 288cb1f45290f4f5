"""Pods as an API server's proxy reaches them: pages that a test makes, over real HTTP on loopback."""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class PodServer:
    """Answers GETs by path; `token`: what it wants to see for them, if anything. Keeps counting while it is asked."""

    def __init__(self, pages: Mapping[str, Callable[[], str]], token: str = "") -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.token and self.headers.get("Authorization") != f"Bearer {outer.token}":
                    self.send_error(401)
                    return
                page = outer.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                    return
                body = page().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.pages, self.token = dict(pages), token
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "PodServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Counted:
    """A picker's metrics page: `requests` more at each look, `failing` of them badly."""

    def __init__(self, requests: int, failing: int = 0) -> None:
        self.requests, self.failing = requests, failing
        self._looks = 0

    def __call__(self) -> str:
        self._looks += 1
        names = 'model_name="m",target_model_name="m"'
        return (
            f"inference_objective_request_total{{{names}}} {self.requests * self._looks}\n"
            f'inference_objective_request_error_total{{error_code="NoAnswer",{names}}} {self.failing * self._looks}\n'
        )


def models(base: str, *adapters: str) -> Callable[[], str]:
    """The list of models of a server."""
    cards = [{"id": base, "parent": None}, *({"id": name, "parent": base} for name in adapters)]
    return lambda: json.dumps({"object": "list", "data": cards})
