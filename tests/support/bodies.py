"""What tests of the body-based router share: routers, and a strict gateway in front of one."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from picker._core.bbr import STEP_BASE, STEP_FIELD, STEP_PYTHON, Exchange, Router
from picker._core.names import Names
from picker._core.view import View
from tests.support import messages
from tests.support.gateway import DUPLEX, Direction, Gateway

MODEL, BASE = "x-gateway-model-name", "x-gateway-base-model-name"
SPOOFED = {MODEL: "spoofed", BASE: "spoofed"}
NAMES = {"llama": "llama", "food-review": "llama", "travel": "qwen"}
REFUSAL = json.dumps({"error": {"message": "no header can hold it"}}).encode()
STEPS = [
    (STEP_FIELD, b"model", MODEL.encode(), REFUSAL),
    (STEP_BASE, b"model", BASE.encode(), REFUSAL),
]
BUFFERED = messages.BUFFERED

Plugin = Callable[[View], object]


def router(**options: Any) -> Router:
    """One with the steps every router has."""
    made = Router(STEPS, **options)
    made.set_names(Names({name.encode(): base.encode() for name, base in NAMES.items()}))
    return made


def router_with(
    request: Sequence[Plugin] = (),
    response: Sequence[Plugin] = (),
    *,
    sees: bool = True,
    closed: bool = False,
    **more: Any,
) -> Router:
    """One with plugins before (request) and behind the built-in steps."""

    def host(step: int, is_response: bool, view: View) -> None:
        (response if is_response else request)[step](view)

    before = [(STEP_PYTHON, sees, closed) for _ in request]
    made = Router([*before, *STEPS], [(STEP_PYTHON, sees, closed) for _ in response], host=host, **more)
    made.set_names(Names({name.encode(): base.encode() for name, base in NAMES.items()}))
    return made


class BodyGateway(Gateway):
    """One exchange through `router`; what plugins make of a body is `change_request` or `change_response`."""

    def __init__(
        self,
        router: Router,
        *,
        modes: tuple[int, int] = (DUPLEX, DUPLEX),
        change_request: Callable[[bytes], bytes] = bytes,
        change_response: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.router = router
        self.exchange = Exchange(router)
        self.session = self.exchange  # type: ignore[assignment]
        self.modes = modes
        self.request = Direction(modes[0], change=change_request)
        self.response = Direction(modes[1], change=change_response)
        self.now_ns = 0
        self.headers = {}
        self.metadata = ""
        self.response_headers = {}
        self.immediate = None
        self.override = None
        self.rewrite, self.restores = "", False
        self.clears = 0  # of the route cache
        self.feed = lambda message, _: self._feed(message)  # type: ignore[assignment]

    def _feed(self, message: bytes) -> list[bytes]:
        if self.exchange.is_over:
            return []  # the stream has ended
        replies = self.exchange.feed(message)
        for reply in map(messages.parse, replies):
            kind = reply.WhichOneof("response")
            if kind in ("request_headers", "request_body"):
                self.clears += getattr(reply, kind).response.clear_route_cache
        self.router._check()
        return replies

    def post(
        self, body: bytes, *, headers: Mapping[str, str] | None = None, cut: int = 0, ending: str = "empty"
    ) -> None:
        """A whole request; `cut`: bytes of a chunk, 0 for one chunk."""
        self.send_headers(headers=headers)
        chunks = [body[at : at + cut] for at in range(0, len(body), cut)] if cut and body else [body]
        self.send_body(chunks, ending=ending)

    def respond(
        self, body: Sequence[bytes], *, kind: str = "application/json", status: int = 200, ending: str = "empty"
    ) -> None:
        """A whole response."""
        self.answer_headers(status, kind)
        self.answer_body(body, ending=ending)

    def routing(self) -> dict[str, str]:
        """The routing headers as they go on."""
        return {name: self.headers[name] for name in (MODEL, BASE) if name in self.headers}

    def error(self) -> tuple[int, Any]:
        """Status and JSON of the immediate response."""
        assert self.immediate is not None
        return self.immediate.status.code, json.loads(self.immediate.body)

    def close(self) -> None:
        self.exchange.close()
        self.exchange._check()
        self.router._check()
