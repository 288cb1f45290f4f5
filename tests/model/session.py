"""Slow model of `picker._core.session`: what each message of a stream is answered with, mode by mode.

Replies are tuples:
    ("headers", direction, pick)          pick: the destination is set
    ("headers", "response", no_body, unsized)    the body need not be shown; content-length goes
    ("body", direction, pick, instead, content_length)    as it stands, or another (else None, and no new length)
    ("chunk", direction, bytes, end)      streamed_response
    ("trailers", direction)
    ("immediate", status)
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.model import apis, prompt
from tests.model.renaming import change, change_cut, escaped
from tests.model.restore import Restorer

NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, DUPLEX = range(5)
Reply = tuple[object, ...]


class OutOfOrderError(Exception):
    """The stream must end with an error."""


@dataclass(frozen=True)
class Message:
    """`kind`: request or response, then headers, body or trailers. `modes` only counts in the first of a stream."""

    kind: str
    body: bytes = b""
    end: bool = False
    path: bytes = b"/v1/chat/completions"
    modes: tuple[int, int] | None = None
    status: int = 200
    is_stream: bool = True
    wanted: bytes | None = None  # the rewrite header
    length: int | None = None  # the content-length
    observed: bool = False


class Session:
    def __init__(
        self,
        has_candidate: Callable[[], bool],
        *,
        body_bytes: int,
        chunk_bytes: int,
        is_surplus: bool = False,
        tracking: str = "full",
    ) -> None:
        self.tracking = tracking
        self.has_candidate, self.is_surplus = has_candidate, is_surplus
        self.body_bytes, self.chunk_bytes = body_bytes, chunk_bytes
        self.modes = (DUPLEX, DUPLEX)
        self.started = self.closed = False
        self.headers_seen = self.request_done = self.trailers_seen = False
        self.path = b""
        self.body: bytes | None = None
        self.wanted: bytes | None = None
        self.length: int | None = None
        self.picked = self.observed = False
        self.immediate = 0
        self.let_go = False
        self.client: bytes | None = None  # the model as the body had it, if it was changed
        self.restorer: Restorer | None = None
        self.answer_length: int | None = None
        self.response_seen = self.response_done = False
        self.status = 0
        self.is_stream = False
        self.answer = b""

    def feed(self, message: Message) -> list[Reply]:
        if self.closed:
            raise OutOfOrderError
        if self.immediate or self.observed or self.let_go:
            return []
        is_first, self.started = not self.started, True
        if is_first and message.observed:
            self.observed = True
            return []
        if is_first and self.is_surplus:
            return self.refuse(429)
        if is_first and message.modes is not None:
            self.modes = message.modes
            if max(message.modes) > DUPLEX:
                raise OutOfOrderError
        replies: list[Reply] = getattr(self, message.kind)(message)
        if message.kind.startswith("request") and self.picked and self.request_done and not self.response_seen:
            self.let_go = self.tracking == "off"
        return replies

    @property
    def is_duplex(self) -> bool:
        return self.modes[0] == DUPLEX

    @property
    def is_answered(self) -> bool:
        """Nothing of the request waits for a pick."""
        return self.picked or self.response_seen

    # --- the request ---

    def request_headers(self, message: Message) -> list[Reply]:
        if self.headers_seen or self.response_seen:
            raise OutOfOrderError
        self.headers_seen = True
        self.path = message.path
        self.wanted, self.length = message.wanted, message.length
        if self.wanted is not None and not self.is_name(self.wanted):
            return self.refuse(400)
        self.request_done = message.end or self.modes[0] == NONE
        if self.request_done or apis.find(self.path) == apis.OTHER or self.modes[0] == STREAMED:
            return self.pick("headers")
        return [] if self.is_duplex else [("headers", "request", False)]

    @staticmethod
    def is_name(text: bytes) -> bool:
        try:
            return 0 < len(text.decode().encode()) <= 256 and min(text) >= 0x20 and 0x7F not in text
        except UnicodeDecodeError:
            return False

    def request_body(self, message: Message) -> list[Reply]:
        if not self.headers_seen and not self.response_seen:
            raise OutOfOrderError
        if self.is_duplex and self.request_done:
            if message.body:
                raise OutOfOrderError
            return []
        self.request_done |= message.end
        if not self.is_answered:
            return self.gather(message)
        if not self.is_duplex:
            return [("body", "request", False, None, None)]
        return [("chunk", "request", message.body, message.end)] if self.picked else []

    def gather(self, message: Message) -> list[Reply]:
        self.body = (self.body or b"") + message.body
        if len(self.body) > self.body_bytes:
            return self.refuse(413)
        if not self.is_duplex:
            return self.pick("body")
        return self.pick("headers") if self.request_done else []

    def request_trailers(self, message: Message) -> list[Reply]:
        if not self.headers_seen and not self.response_seen:
            raise OutOfOrderError
        if self.trailers_seen or (self.is_duplex and self.request_done):
            raise OutOfOrderError
        if not self.is_answered and not self.is_duplex:
            return self.refuse(400)
        self.trailers_seen = self.request_done = True
        if not self.is_answered:
            return self.pick("headers")
        return [("trailers", "request")] if self.picked or not self.is_duplex else []

    def refuse(self, status: int) -> list[Reply]:
        self.immediate = status
        return [("immediate", status)]

    def problem(self) -> int:
        """Why the body is refused (of `tests.model.apis`)."""
        if apis.find(self.path) == apis.OTHER or (self.body is None and not self.trailers_seen):
            return apis.OK
        problem: int = prompt.read(self.path, self.body or b"")["refused"]
        if problem == apis.NOT_JSON and self.modes[0] == BUFFERED_PARTIAL and not self.request_done:
            return apis.OK  # perhaps only the beginning
        return problem

    def pick(self, carrier: str) -> list[Reply]:
        if self.problem() != apis.OK:
            return self.refuse(400)
        if not self.has_candidate():
            return self.refuse(503)
        self.picked = True
        body = self.body or b""
        changed = None
        if self.wanted is not None and apis.find(self.path) != apis.OTHER:
            changed = change(body, self.wanted) or change_cut(body, self.wanted)
        instead, self.client = changed if changed is not None else (body, None)
        replies: list[Reply] = [(carrier, "request", True)]
        if carrier == "body":
            replies = [(carrier, "request", True, *self.changed(body, instead))]
        if self.is_duplex and self.body is not None:
            replies += self.chunks(instead, self.request_done and not self.trailers_seen)
        if self.trailers_seen:
            replies.append(("trailers", "request"))
        self.body = None
        return replies

    def changed(self, body: bytes, instead: bytes) -> tuple[bytes | None, int | None]:
        """The other body, if it is another, and its content-length."""
        if instead == body:
            return None, None
        if self.request_done:
            return instead, len(instead)
        return instead, None if self.length is None else self.length + len(instead) - len(body)

    def chunks(self, body: bytes, end: bool) -> list[Reply]:
        pieces = [body[at : at + self.chunk_bytes] for at in range(0, len(body), self.chunk_bytes)] or [b""]
        last = len(pieces) - 1
        return [("chunk", "request", piece, end and number == last) for number, piece in enumerate(pieces)]

    # --- the response ---

    @property
    def is_held(self) -> bool:
        return self.modes[1] in (BUFFERED, BUFFERED_PARTIAL)

    def begin_response(self) -> None:
        if not self.response_seen and self.picked and self.client is not None and self.tracking == "full":
            assert self.wanted is not None
            self.restorer = Restorer(escaped(self.wanted), self.client, event_stream=self.is_stream)
        self.response_seen = True

    def response_headers(self, message: Message) -> list[Reply]:
        if self.response_seen:
            raise OutOfOrderError
        self.status, self.is_stream, self.answer_length = message.status, message.is_stream, message.length
        self.begin_response()
        self.response_done = message.end or self.modes[1] == NONE
        no_body = self.tracking == "headers" and not self.response_done and self.modes[1] != DUPLEX
        unsized = self.restorer is not None and not self.response_done and not self.is_held
        return [("headers", "response", no_body, unsized)]

    def response_body(self, message: Message) -> list[Reply]:
        if not self.headers_seen and not self.response_seen:
            raise OutOfOrderError
        self.begin_response()
        if self.response_done and self.modes[1] == DUPLEX:
            if message.body:
                raise OutOfOrderError
            return []
        chunk = message.body
        if not self.response_done:
            self.answer += message.body
            if self.restorer is not None:
                chunk = self.restorer.feed(message.body, last=message.end or self.is_held)
        self.response_done |= message.end
        if self.modes[1] == DUPLEX:
            return [] if message.body and not chunk and not message.end else [("chunk", "response", chunk, message.end)]
        if chunk == message.body:
            return [("body", "response", False, None, None)]
        return [("body", "response", False, chunk, self.new_length(message, len(chunk)))]

    def new_length(self, message: Message, size: int) -> int | None:
        if not self.is_held:
            return None
        if message.end or self.modes[1] == BUFFERED:
            return size
        return None if self.answer_length is None else self.answer_length + size - len(message.body)

    def response_trailers(self, message: Message) -> list[Reply]:
        if not self.headers_seen and not self.response_seen:
            raise OutOfOrderError
        self.begin_response()
        held = b"" if self.restorer is None or self.response_done else self.restorer.feed(b"", last=True)
        if held and self.modes[1] != DUPLEX:
            raise OutOfOrderError
        self.response_done = True
        return [("chunk", "response", held, False), ("trailers", "response")] if held else [("trailers", "response")]

    # --- the end ---

    @property
    def in_flight(self) -> bool:
        return self.picked and not self.closed

    def failure(self) -> str:
        """What `error_code` says of the session once it is closed; "" if all went well or nothing was asked.

        Of a gateway that shows responses.
        """
        by_status = {400: "BadRequest", 413: "PayloadTooLarge", 429: "ResourceExhausted", 503: "ServiceUnavailable"}
        if self.immediate == 400 and self.wanted is not None and not self.is_name(self.wanted):
            return "BadRewriteHeader"
        if self.immediate or not self.started or self.observed or self.let_go:
            return by_status.get(self.immediate, "")
        if not self.picked or not (self.request_done or self.response_seen):
            return "Canceled"
        if not self.response_seen:
            return "NoAnswer"
        if self.status >= 400:
            return "ModelServerError"
        return "" if self.response_done or self.tracking != "full" or self.is_whole else "Canceled"

    @property
    def is_whole(self) -> bool:
        """Does the answer itself say that there is no more of it?"""
        if self.is_stream:
            return re.search(rb"^data: \[DONE]\n\n", self.answer, re.MULTILINE) is not None
        try:
            json.loads(self.answer)
        except ValueError:
            return False
        return True
