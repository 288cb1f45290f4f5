"""Streams of one connection in any order, with tiny windows and reads, against a model that knows nothing of either."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from tests.model import h2 as model
from tests.support import messages as m
from tests.support.exchange import assert_idle, engine_with
from tests.support.h2memory import MemoryCall
from tests.support.h2peer import framed
from tests.support.h2service import BEGIN, BODY, PROCESS, REQUEST, SECOND, Service, chunk

LARGEST = 2000
RULES = {
    "message_bytes": LARGEST,
    "stream_window": 300,
    "connection_window": 70_000,
    "stream_pending": 500,
    "connection_pending": 3000,
    "write_bytes": 50,
}
PARTS = [
    BEGIN,
    REQUEST,
    chunk(b"x" * 400),
    chunk(b""),
    framed(m.request_body(BODY)),
    framed(m.request_headers()),
    framed(m.response_headers()),
    framed(m.response_body(b"data: {}\n\n" * 20)),
    framed(m.response_body(b"", end_of_stream=True)),
    framed(b""),
    framed(b"\xff\xff"),
    framed(b"x", flag=1),
    framed(b"x", flag=2),
    b"\0\xff\0\0\0",
]
GOOD = PARTS[:9]


class Pair:
    """One stream, in the core and in the model."""

    def __init__(self, call: MemoryCall, slow: model.Stream, expires_ns: int) -> None:
        self.call, self.slow, self.expires_ns = call, slow, expires_ns
        self.received: list[bytes] = []
        self.rest = b""
        """Of the message under way, for the client's next bytes."""
        self.is_closed = False

    def take(self) -> None:
        self.received += self.call.messages
        self.call.messages.clear()

    @property
    def is_settled(self) -> bool:
        return self.call.status == self.slow.status and self.received == self.slow.replies


class H2Machine(RuleBasedStateMachine):
    """Both sides have an engine of their own, of one endpoint, so that they always pick alike."""

    streams: Any = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.twin = engine_with(1)
        self.service = Service(rules=RULES, engine=engine_with(1))
        self.client = self.service.client(initial_window=40)
        self.client.reads = False
        self.pairs: list[Pair] = []
        self.is_stopped = False

    @rule(target=streams, encoding=st.booleans(), seconds=st.sampled_from([0, 0, 1, 3]))
    def open(self, encoding: bool, seconds: int) -> Any:
        if self.is_stopped:
            return multiple()
        extra = [("grpc-encoding", "gzip")] if encoding else []
        extra += [("grpc-timeout", f"{seconds}S")] if seconds else []
        call = self.client.open(PROCESS, *extra)
        self.client.exchange()
        slow = model.Stream(self.twin, largest=LARGEST, knows_encoding=not encoding)
        pair = Pair(call, slow, self.client.now_ns + seconds * SECOND if seconds else 0)
        self.pairs.append(pair)
        return pair

    @rule(pair=streams, parts=st.lists(st.sampled_from(GOOD), max_size=3), other=st.sampled_from(PARTS), cut=st.data())
    def send(self, pair: Pair, parts: list[bytes], other: bytes, cut: st.DataObject) -> None:
        """Some bytes; the message they may end in goes on with the next ones."""
        if pair.is_closed:
            return
        data = pair.rest + b"".join([*parts, other])
        at = cut.draw(st.integers(len(data) // 2, len(data)))
        data, pair.rest = data[:at], data[at:]
        pair.call.send(data)

    @rule(pair=streams, data=st.sampled_from([b"", b"", BEGIN, REQUEST]))
    def half_close(self, pair: Pair, data: bytes) -> None:
        if not pair.is_closed:
            pair.is_closed = True
            pair.call.send(data, end_stream=True)

    @rule(pair=streams)
    def reset(self, pair: Pair) -> None:
        if pair.call.reset_by < 0 and pair in self.pairs and self.is_known(pair):
            pair.call.reset()
            pair.slow.end("CANCELLED")
            pair.is_closed = True
            self.pairs.remove(pair)

    def is_known(self, pair: Pair) -> bool:
        """Does the client's HTTP/2 still have the stream?"""
        return pair.call.id in self.client.protocol.streams and not self.client.protocol.streams[pair.call.id].closed

    @rule(pair=streams, size=st.sampled_from([1, 7, 300, 5000]))
    def give(self, pair: Pair, size: int) -> None:
        """The client lets the server send more of one stream."""
        if self.is_known(pair):
            self.client.protocol.increment_flow_control_window(size, pair.call.id)
            self.client.exchange()

    @rule(cut=st.sampled_from([0, 1, 5, 100]))
    def read(self, cut: int) -> None:
        """What the server is given at once from now on."""
        self.client.cut = cut

    @rule(takes=st.booleans())
    def socket(self, takes: bool) -> None:
        self.client.takes = takes
        self.client.exchange()

    @rule()
    def pass_time(self) -> None:
        self.client.pass_time(SECOND)

    @invariant()
    def agree(self) -> None:
        """As far as bytes have come; deadlines are told in the model when the core has looked."""
        for pair in self.pairs:
            sent = self.sent(pair)
            pair.slow.send(sent)
            if pair.call._ended:
                pair.slow.half_close()
            if pair.expires_ns and pair.expires_ns <= self.client.now_ns:
                pair.slow.expire()
            pair.take()
            assert pair.slow.replies[: len(pair.received)] == pair.received
            assert pair.call.status in ("", pair.slow.status)
        assert self.service.engine.sessions == self.twin.sessions
        assert self.client.connection.pending < 3000 + 300 * 20 * 10 + 20_000

    def sent(self, pair: Pair) -> bytes:
        """What has gone out since this was last asked."""
        fresh = pair.call.sent[:]
        pair.call.sent.clear()
        return bytes(fresh)

    def teardown(self) -> None:
        """All windows open: nothing that was held up is lost."""
        self.client.takes = True
        for pair in self.pairs:
            if self.is_known(pair):
                self.client.protocol.increment_flow_control_window(1 << 20, pair.call.id)
        self.client.protocol.increment_flow_control_window(1 << 20)
        self.client.exchange()
        self.agree()
        for pair in self.pairs:
            assert pair.is_settled, (pair.call.status, pair.slow.status, len(pair.received), len(pair.slow.replies))
        self.client.connection.stop()
        self.client.exchange()
        for pair in self.pairs:
            pair.slow.stop()
            assert pair.call.status == pair.slow.status
        self.client.close()
        self.service.assert_idle()
        assert_idle(self.twin)


H2Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestH2 = H2Machine.TestCase
