"""Codec: whole exchanges, and the two replies that matter.

No target is stated for the codec alone; the limits are its share of the session's 15 µs for a small request.
"""

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.exchanges import small_exchange
from picker._core import codec
from tests.support import messages

PIECE = b"x" * 62_000


def decoding(sent: list[bytes], times: int = 1) -> Action:
    sent = sent * times
    return lambda: [codec.Message(message) for message in sent]


def headers(count: int) -> Action:
    return decoding([messages.request_headers(headers={f"x-header-{n}": f"some value {n}" for n in range(count)})])


def pick() -> Action:
    writer = codec.Writer()

    def write() -> None:
        writer.clear()
        writer.common(1, b"10.0.0.1:8000", removed=(b"x-gateway-inference-objective",), clear_route_cache=True)

    return write


def echo() -> Action:
    writer = codec.Writer()

    def write() -> None:
        writer.clear()
        writer.streamed(3, PIECE, False)

    return write


CASES = [
    Case("codec: decode the six messages of a 1 KB exchange", lambda: decoding(small_exchange()), limit=3.0),
    # Bodies are not copied, so 100 KB must cost what 1 KB does.
    Case("codec: decode a body of 62,000 bytes", lambda: decoding([messages.request_body(PIECE)]), limit=0.75),
    # A hundred in a row: one alone is not much longer than the clock takes.
    Case("codec: decode request headers", lambda: decoding(small_exchange()[:1], 100), limit=0.75, per=100),
    Case("codec: write a pick (header and metadata)", pick, limit=1.0),
    Case("codec: write a 62,000-byte streamed chunk", echo, limit=5.0),
    Case("codec: the same as a rate", echo, "GB/s", 10.0, per=len(PIECE)),
]
GROWTHS = [Growth("codec: decode n headers", headers, 16, "n")]
