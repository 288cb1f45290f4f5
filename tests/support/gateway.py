"""A strict gateway: sends an exchange to a session and takes its replies as Envoy does, raising where Envoy would fail.

What it holds replies to (PROTOCOL of ext_proc): full duplex wants headers first, then `streamed_response` chunks, then
trailers, and never an end of stream it did not send; the other modes want one reply per message and no
`streamed_response`. What is forwarded is what was sent, to the byte, but for the model that a header asks for; what
comes back names it as the client did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picker._core.engine import Engine
from picker._core.session import Session
from tests.model import apis, renaming, restore
from tests.support import messages

DESTINATION = "x-gateway-destination-endpoint"
REWRITES = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
DUPLEX = messages.FULL_DUPLEX
UNREAD = (messages.STREAMED, messages.NONE)
BUFFERED = (messages.BUFFERED, messages.BUFFERED_PARTIAL)


class ProtocolError(AssertionError):
    """Envoy would have answered 500 or 504, or waited for ever."""


def demand(condition: object, why: str) -> None:
    if not condition:
        raise ProtocolError(why)


@dataclass
class Direction:
    """What was sent and what has come back of one direction."""

    mode: int
    headers_sent: bool = False
    headers_answered: bool = False
    end_sent: bool = False
    end_answered: bool = False
    trailers_sent: bool = False
    trailers_answered: bool = False
    waits_for: str = ""  # in modes other than full duplex
    sent: bytearray = field(default_factory=bytearray)
    forwarded: bytearray = field(default_factory=bytearray)
    last: bytes = b""  # piece of the body that was sent
    change: Callable[[bytes], bytes] = bytes

    @property
    def expected(self) -> bytes:
        """What is to be forwarded of what was sent."""
        return self.change(bytes(self.sent))

    @property
    def is_duplex(self) -> bool:
        return self.mode == DUPLEX

    def send(self, kind: str, body: bytes, end: bool) -> None:
        demand(not self.waits_for, f"{self.waits_for} was not answered")
        self.waits_for = "" if self.is_duplex else kind
        self.headers_sent |= kind == "headers"
        self.trailers_sent |= kind == "trailers"
        self.end_sent |= end
        self.sent += body
        self.last = body

    def take_headers(self) -> None:
        demand(self.headers_sent and not self.headers_answered, "headers answered unasked")
        self.headers_answered = True
        self.answered("headers")

    def take_body(self, response: Any) -> None:
        demand(self.headers_answered, "the body is answered before the headers")
        mutation = response.response.body_mutation
        if not self.is_duplex:
            self.take_instead(mutation)
            self.answered("body")
            return
        demand(mutation.WhichOneof("mutation") == "streamed_response", "full duplex wants streamed_response")
        demand(not self.end_answered and not self.trailers_answered, "a chunk behind the end")
        self.forwarded += mutation.streamed_response.body
        if mutation.streamed_response.end_of_stream:
            demand(self.end_sent, "an end of stream that was not sent")
            self.end_answered = True
        demand(self.expected.startswith(self.forwarded), "other bytes than were sent")

    def take_instead(self, mutation: Any) -> None:
        """A body mutation, or none, in a mode that is not full duplex."""
        kind = mutation.WhichOneof("mutation")
        demand(kind in (None, "body"), "streamed_response in a mode that wants none")
        demand(kind is None or mutation.body != self.last, "a body mutation where nothing changes")
        self.forwarded += self.last if kind is None else mutation.body
        demand(self.expected.startswith(self.forwarded), "other bytes than were sent")
        if self.end_sent or self.mode in BUFFERED:
            demand(self.forwarded == self.expected, "bytes are held back at the end")

    def take_trailers(self) -> None:
        demand(self.trailers_sent and not self.trailers_answered, "trailers answered unasked")
        demand(self.headers_answered and self.forwarded == self.expected, "trailers overtake the body")
        self.trailers_answered = True
        self.answered("trailers")

    def answered(self, kind: str) -> None:
        demand(self.is_duplex or self.waits_for == kind, f"{kind} answered unasked")
        self.waits_for = ""

    def demand_complete(self) -> None:
        """Everything sent so far has come back."""
        demand(not self.waits_for, f"{self.waits_for} was not answered")
        demand(self.headers_answered == self.headers_sent, "headers were not answered")
        demand(self.trailers_answered == self.trailers_sent, "trailers were not answered")
        if self.is_duplex and self.headers_sent:
            demand(self.forwarded == self.expected, f"{len(self.forwarded)} of {len(self.sent)} bytes forwarded")
            demand(self.end_answered == self.end_sent, "the end of the body was not answered")


class Gateway:
    """One exchange through one session of `engine`."""

    def __init__(self, engine: Engine, *, modes: tuple[int, int] = (DUPLEX, DUPLEX), now_ns: int = 1) -> None:
        self.session = Session(engine, now_ns)
        self.modes = modes
        self.request, self.response = Direction(modes[0]), Direction(modes[1])
        self.now_ns = now_ns
        self.headers: dict[str, str] = {}
        self.metadata = ""
        self.response_headers: dict[str, str] = {}
        self.immediate: Any = None
        self.override: Any = None  # of the modes, by the response headers
        self.rewrite = ""  # the model the client asks for by a header
        self.restores = True  # the client's name is expected back
        self.feed = self.session.feed

    # --- what is sent ---

    def send_headers(
        self,
        path: str = "/v1/chat/completions",
        *,
        headers: Mapping[str, str] | None = None,
        end: bool = False,
        **more: Any,
    ) -> None:
        self.headers = dict(headers or {})
        name = next((self.headers[key] for key in REWRITES if key in self.headers), "")
        if name and not end and self.modes[0] not in UNREAD and apis.find(path.encode()) != apis.OTHER:
            self.request.change = lambda body: renaming.renamed(body, name.encode())
            self.rewrite = name
        self.request.send("headers", b"", False)
        message = messages.request_headers(path, headers=headers, end_of_stream=end, modes=self.modes, **more)
        self.take(self.feed(message, self.now_ns))

    def send_body(self, chunks: Sequence[bytes], *, ending: str = "empty") -> None:
        """The body in chunks, as the mode has it. `ending`: chunk, empty, trailers, or open (more to come)."""
        if self.modes[0] == messages.NONE:
            return
        if self.modes[0] in (messages.BUFFERED, messages.BUFFERED_PARTIAL):
            chunks = [b"".join(chunks)]
            ending = "chunk" if ending == "empty" else ending
        for number, chunk in enumerate(chunks, 1):
            self._send_chunk(chunk, ending == "chunk" and number == len(chunks))
        if ending == "empty":
            self._send_chunk(b"", True)
        if ending == "trailers" and self.immediate is None:
            self.request.send("trailers", b"", False)
            self.take(self.feed(messages.request_trailers(), self.now_ns))

    def _send_chunk(self, chunk: bytes, end: bool) -> None:
        if self.immediate is None:
            self.request.send("body", chunk, end)
            self.take(self.feed(messages.request_body(chunk, end_of_stream=end), self.now_ns))

    def answer_headers(
        self,
        status: int = 200,
        kind: str = "text/event-stream",
        *,
        end: bool = False,
        served: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.response_headers = dict(headers or {})
        self._expect_restoring(kind)
        self.response.send("headers", b"", False)
        message = messages.response_headers(status, kind, end_of_stream=end, served=served, headers=headers)
        self.take(self.feed(message, self.now_ns))

    def _expect_restoring(self, kind: str) -> None:
        changed = renaming.change(bytes(self.request.sent), self.rewrite.encode()) if self.rewrite else None
        encoding = self.response_headers.get("content-encoding", "identity")
        if not self.restores or changed is None or encoding != "identity":
            return
        target, client = renaming.escaped(self.rewrite.encode()), changed[1]
        is_stream = kind.startswith("text/event-stream")
        self.response.change = lambda body: restore.restore(body, target, client, event_stream=is_stream)

    def answer_body(self, chunks: Sequence[bytes], *, ending: str = "empty") -> None:
        """The response's body; `ending` as for `send_body`."""
        if self.modes[1] == messages.NONE:
            return
        if self.modes[1] in BUFFERED:
            chunks, ending = [b"".join(chunks)], "chunk" if ending == "empty" else ending
        chunks = [*chunks, b""] if ending == "empty" else chunks
        for number, chunk in enumerate(chunks, 1):
            end = ending in ("chunk", "empty") and number == len(chunks)
            self.response.send("body", chunk, end)
            self.take(self.feed(messages.response_body(chunk, end_of_stream=end), self.now_ns))
        if ending == "trailers":
            self.response.send("trailers", b"", False)
            self.take(self.feed(messages.response_trailers(), self.now_ns))

    # --- what comes back ---

    def take(self, replies: Sequence[bytes]) -> None:
        for reply in map(messages.parse, replies):
            demand(self.immediate is None, "a reply behind the immediate response")
            kind = reply.WhichOneof("response")
            content = getattr(reply, kind)
            if kind == "immediate_response":
                self.immediate = content
                continue
            direction = self.request if kind.startswith("request") else self.response
            if kind.endswith("trailers"):
                direction.take_trailers()
            elif kind.endswith("body"):
                direction.take_body(content)
                self._mutate(reply, content, direction)
                self._check_length(direction)
            else:
                direction.take_headers()
                self._mutate(reply, content, direction)
        self.session._check()

    def _check_length(self, direction: Direction) -> None:
        """Envoy compares a body it was given with the content-length, where it has all of it."""
        headers = self.headers if direction is self.request else self.response_headers
        if direction.mode == messages.BUFFERED and "content-length" in headers:
            demand(int(headers["content-length"]) == len(direction.forwarded), "a wrong content-length")

    def _mutate(self, reply: Any, content: Any, direction: Direction) -> None:
        """Header mutations, removals last; those of a body count in buffered modes only."""
        mutation = content.response.header_mutation
        headers = self.headers if direction is self.request else self.response_headers
        for option in mutation.set_headers:
            demand(not option.header.value and option.append_action == 2, "raw_value, overwritten if it exists")
            headers[option.header.key] = option.header.raw_value.decode()
        for name in mutation.remove_headers:
            headers.pop(name, None)
        if reply.HasField("mode_override"):
            demand(direction is self.response and not direction.forwarded, "mode_override elsewhere than in headers")
            demand(not direction.is_duplex, "mode_override in full duplex")
            self.override = reply.mode_override
        if reply.HasField("dynamic_metadata"):
            demand(not self.metadata, "a second pick")
            fields = dict(reply.dynamic_metadata["envoy.lb"].items())
            self.metadata = fields.pop(DESTINATION)
            demand(not fields and self.metadata == headers.get(DESTINATION), "metadata and header differ")

    @property
    def destination(self) -> str:
        """Where the request goes: header and metadata agree."""
        demand(self.metadata == self.headers.get(DESTINATION, ""), "metadata and header differ")
        return self.metadata

    def complete(self) -> None:
        """The request is forwarded whole, or answered by picker."""
        if self.immediate is None:
            self.request.demand_complete()
            self.response.demand_complete()
            demand(self.destination, "no destination")

    def close(self) -> None:
        self.session.close(self.now_ns)
        self.session._check()
