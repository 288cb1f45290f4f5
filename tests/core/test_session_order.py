"""Messages of any kind in any order, of several streams at once: each is answered as the model says, or refused."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.model import session as model
from tests.support import messages

WHOLE = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
ESCAPED = b'{"messages":["model"],"model":"\\u0061\\"","model":"a"}'
ANSWERS = [b'{"model":"a"}', b'data: {"model":"a', b'","model":"a"}\n\n', b'{"model":"a', b"\\u0061"]
BODIES = [*ANSWERS, b"", WHOLE, WHOLE[:20], WHOLE[20:], ESCAPED, b"{}", b"x" * 90, b"data: [DONE]\n\n"]
NAMES = [b"m", b"a", b'other\\ "name"', "ü€".encode(), b"", b"\xff", b"x" * 257, b"a\tb", b"\x7f"]
LIMITS = {"body_bytes": 100, "chunk_bytes": 7}
SESSIONS, SURPLUS = 3, 1
MODES = st.tuples(st.integers(0, 4), st.integers(0, 4)) | st.just((5, 0)) | st.just((0, 77))
PATHS = [b"/v1/chat/completions", b"/v1/completions", b"/v1/models"]
KINDS = [f"{side}_{part}" for side in ("request", "response") for part in ("headers", "body", "trailers")]
MESSAGE = st.builds(
    model.Message,
    kind=st.sampled_from([*KINDS, "request_body", "response_body"]),
    body=st.sampled_from(BODIES),
    end=st.booleans(),
    path=st.sampled_from(PATHS),
    modes=st.none() | MODES,
    status=st.sampled_from([200, 404, 500]),
    is_stream=st.booleans(),
    wanted=st.none() | st.sampled_from(NAMES[:4]) | st.sampled_from(NAMES),
    length=st.none() | st.integers(0, 200),
    observed=st.sampled_from([False] * 19 + [True]),
)


PIECE = st.builds(model.Message, kind=st.just("response_body"), body=st.sampled_from([b"", *ANSWERS]))
LAST = st.builds(model.Message, kind=st.sampled_from(KINDS[-2:]), body=st.sampled_from(ANSWERS), end=st.booleans())
RESPONSE = st.tuples(st.lists(PIECE, max_size=4), st.lists(LAST, max_size=1)).map(lambda both: both[0] + both[1])


def encode(message: model.Message) -> bytes:
    if message.kind == "request_headers":
        made = messages.request_headers(message.path.decode(), end_of_stream=message.end)
        if message.length is not None:
            made = messages.with_header(made, "content-length", str(message.length).encode())
        if message.wanted is not None:
            made = messages.with_header(made, "x-gateway-model-name-rewrite", message.wanted)
    elif message.kind == "response_headers":
        kind = "text/event-stream; charset=utf-8" if message.is_stream else "application/json"
        made = messages.response_headers(message.status, kind, end_of_stream=message.end)
        if message.length is not None:
            made = messages.with_header(made, "content-length", str(message.length).encode())
    elif message.kind.endswith("body"):
        made = getattr(messages, message.kind)(message.body, end_of_stream=message.end)
    else:
        made = getattr(messages, message.kind)()
    if message.observed:
        made = messages.observed(made)
    if message.modes is not None:
        return messages.with_modes(made, message.modes)
    return messages.without_modes(made)


def describe(reply: bytes) -> model.Reply:
    """A reply as the model has it."""
    parsed = messages.parse(reply)
    kind: str = parsed.WhichOneof("response")
    content: Any = getattr(parsed, kind)
    if kind == "immediate_response":
        return "immediate", content.status.code
    direction, _, part = kind.partition("_")
    if part == "trailers":
        return part, direction
    mutation = content.response.body_mutation
    streamed = mutation.streamed_response
    if mutation.HasField("streamed_response"):
        return "chunk", direction, streamed.body, streamed.end_of_stream
    is_picked = parsed.HasField("dynamic_metadata")
    if part == "headers" and direction == "response":
        removed = list(content.response.header_mutation.remove_headers)
        assert removed in ([], ["content-length"])
        return part, direction, parsed.HasField("mode_override"), bool(removed)
    if part == "headers":
        return part, direction, is_picked
    options = content.response.header_mutation.set_headers
    lengths = [int(option.header.raw_value) for option in options if option.header.key == "content-length"]
    body = mutation.body if mutation.HasField("body") else None
    return part, direction, is_picked, body, lengths[0] if lengths else None


class Order(RuleBasedStateMachine):
    @initialize(endpoints=st.integers(0, 2), tracking=st.sampled_from(["full", "full", "headers", "off"]))
    def start(self, endpoints: int, tracking: str) -> None:
        self.engine = Engine(hash_seed=1, limits={**LIMITS, "sessions": SESSIONS, "surplus": SURPLUS})
        self.engine.set_policy([(32, 1.0, (), 0)], response_tracking=tracking)
        self.tracking = tracking
        self.endpoints = [self.engine.add_endpoint(f"10.0.0.{i}:80", f"10.0.0.{i}") for i in range(endpoints)]
        self.open: list[tuple[Session, model.Session]] = []
        self.failures: Counter[str] = Counter()
        self.show_responses()

    def show_responses(self) -> None:
        """Let the engine see that this gateway shows responses."""
        slot = self.engine.add_endpoint("10.0.0.9:80", "10.0.0.9")
        session = Session(self.engine, 0)
        session.feed(messages.request_headers(end_of_stream=True), 0)
        session.feed(messages.response_headers(end_of_stream=True), 0)
        session.close(0)
        self.engine.remove_endpoint(*slot)

    @rule()
    def begin(self) -> None:
        served = sum(not slow.is_surplus for _, slow in self.open)
        if served == SESSIONS and len(self.open) - served == SURPLUS:
            with pytest.raises(OverflowError):
                Session(self.engine, 0)
            return
        slow = model.Session(
            lambda: bool(self.endpoints), is_surplus=served == SESSIONS, tracking=self.tracking, **LIMITS
        )
        self.open.append((Session(self.engine, 0), slow))

    @rule(data=st.data(), message=MESSAGE)
    def feed(self, data: st.DataObject, message: model.Message) -> None:
        if not self.open:
            self.begin()
        self.exchange(*data.draw(st.sampled_from(self.open)), message)

    @rule(mode=st.integers(0, 4), wanted=st.sampled_from([b"a", b"a", None]), headers=MESSAGE, rest=RESPONSE)
    def ask(self, mode: int, wanted: bytes | None, headers: model.Message, rest: list[model.Message]) -> None:
        """A whole request, perhaps renamed, and what comes of the response."""
        open_before = len(self.open)
        self.begin()
        if len(self.open) == open_before:
            return
        session, slow = self.open[-1]
        asked = model.Message("request_headers", modes=(model.DUPLEX, mode), wanted=wanted)
        whole, headers = model.Message("request_body", WHOLE, end=True), replace(headers, kind="response_headers")
        for message in (asked, whole, headers, *rest):
            if (session, slow) in self.open:
                self.exchange(session, slow, replace(message, observed=False))

    def exchange(self, session: Session, slow: model.Session, message: model.Message) -> None:
        try:
            expected = slow.feed(message)
        except model.OutOfOrderError:
            with pytest.raises(SessionError):
                session.feed(encode(message), 0)
            self.end(session, slow)
            return
        assert [describe(reply) for reply in session.feed(encode(message), 0)] == expected
        assert (session.destination != "") == slow.picked
        session._check()

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.open:
            self.end(*data.draw(st.sampled_from(self.open)))

    def end(self, session: Session, slow: model.Session) -> None:
        session.close(0)
        session.close(5)
        slow.closed = True
        self.failures[slow.failure()] += 1
        self.open.remove((session, slow))
        with pytest.raises(SessionError):
            session.feed(messages.request_trailers(), 0)
        assert session.refuse(8) == []
        session._check()

    @rule()
    def remove_endpoint(self) -> None:
        if self.endpoints:
            self.engine.remove_endpoint(*self.endpoints.pop())

    @invariant()
    def holds_what_the_model_says(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine._check()
        assert self.engine.sessions == len(self.open)
        assert self.engine.in_flight <= sum(slow.in_flight for _, slow in self.open)
        waiting = [slow for _, slow in self.open if not slow.is_answered and not slow.immediate]
        assert self.engine.buffered_bytes == sum(len(slow.body or b"") for slow in waiting)
        counted: Counter[str] = Counter()
        for series in self.engine.stats()["series"]:
            counted.update(series["failures"])
        assert counted == Counter({code: count for code, count in self.failures.items() if code})

    def teardown(self) -> None:
        for session, slow in list(getattr(self, "open", [])):
            self.end(session, slow)
        if hasattr(self, "engine"):
            assert (self.engine.sessions, self.engine.in_flight, self.engine.buffered_bytes) == (0, 0, 0)
            for endpoint in self.engine.endpoints(0):
                assert (endpoint["requests"], endpoint["prefill_tokens"], endpoint["resident_tokens"]) == (0, 0, 0)


TestOrder = Order.TestCase
TestOrder.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
