"""Mutated and random bytes of clients, in random reads: never a crash, never more than the connection's own end."""

import gc
import random
from collections.abc import Callable, Iterator
from itertools import starmap

from picker._core import alloc
from picker._core.h2 import Connection
from tests.support import messages as m
from tests.support.exchange import engine_with
from tests.support.fuzz import CASES, cuts, mutants, mutate
from tests.support.h2memory import GOAWAY, PREFACE, START_NS, MemoryClient, frame, frames, plain_headers
from tests.support.h2peer import framed
from tests.support.h2service import BEGIN, CHECK, POST, PROCESS, REQUEST, WATCH, Service, begun, chunk

SEED = 20_260_101
EVERY = 500
"""Cases between two looks at what the server holds."""
FEW = 16
"""Blocks that a server keeps for the next writes, and its engine for the models of this test."""
SCORER, MAX = (20, 2.0, (), 0), (30, 1.0, (), 0)
RULES = {
    "streams": 20,
    "message_bytes": 5000,
    "header_bytes": 2000,
    "stream_window": 3000,
    "connection_window": 70_000,
    "stream_pending": 1000,
    "connection_pending": 4000,
    "write_bytes": 300,
}


def service() -> Service:
    """With a plugin host that raises now and then, so that reads are paused, too."""
    rng = random.Random(SEED)
    engine = engine_with()

    def host(*_: object) -> list[float]:
        if rng.random() < 0.3:
            raise ZeroDivisionError("a bug")
        return [0, 1]

    engine.set_policy((SCORER, MAX), plugins=host)
    return Service(engine=engine, rules=RULES, on_error=lambda problem: None)


def recorded(act: Callable[[MemoryClient], None]) -> bytes:
    """What a client sends that behaves, one way or another."""
    client = MemoryClient(service().server, is_open=False, initial_window=100)
    client.exchange()
    act(client)
    client.exchange()
    client.close()
    return bytes(client.given)


def several_streams(client: MemoryClient) -> None:
    calls = [client.open(PROCESS, ("grpc-timeout", "9S")) for _ in range(3)]
    for call in calls:
        call.send(REQUEST)
    for call in calls:
        call.send(framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True)), end_stream=True)


def ends(client: MemoryClient) -> None:
    begun(client).reset()
    client.open("/nobody", end_stream=True)
    call = begun(client)
    client.protocol.send_headers(call.id, [("x", "y")], end_stream=True)
    client.open(PROCESS, method="GET")
    begun(client).send(framed(b"x", flag=1))
    begun(client).send(chunk(b"cut")[:-1], end_stream=True)


def control(client: MemoryClient) -> None:
    client.protocol.ping(b"12345678")
    client.protocol.update_settings({4: 10_000, 5: 20_000, 1: 100})
    call = begun(client)
    client.protocol.prioritize(call.id, 5, 0, True)
    client.protocol.increment_flow_control_window(1000)
    call.send(chunk(b"x" * 2000))
    client.protocol.close_connection()


def health(client: MemoryClient) -> None:
    client.open(CHECK).send(framed(b"\x0a\x08liveness"), end_stream=True)
    watch = client.open(WATCH)
    watch.send(framed(b""), end_stream=True)
    client.protocol.send_data(client.open(CHECK).id, framed(b""), end_stream=True, pad_length=9)


def plain() -> bytes:
    """Nothing compressed: what is changed of it is still understood, more often."""
    block = plain_headers({**POST, "grpc-timeout": "1S", "grpc-encoding": "gzip"})
    text = PREFACE + frame(4, 0, 0) + frame(4, 1, 0)
    for number in (1, 3, 5):
        text += frame(1, 4, number, block) + frame(0, 0, number, BEGIN)
    return text + frame(1, 0, 7, block[:30]) + frame(9, 4, 7, block[30:]) + frame(0, 1, 7, REQUEST)


CORPUS = [*map(recorded, (several_streams, ends, control, health)), plain()]
HEADS = [frame(kind, flags, stream, b"")[3:] for kind in range(11) for flags in (0, 1, 4, 5, 8) for stream in (0, 1, 3)]
TOKENS = [
    *HEADS,
    *(bytes((byte,)) for byte in b"\x00\x01\x04\x05\x08\x20\x3f\x40\x7f\x80\x82\x86\xbe\xff"),
    *(b"\x00\x40\x01", b"\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x09", b"\x00\x00\x04"),
    *(frame(8, 0, 0, b"\x7f\xff\xff\xff"), frame(4, 0, 0, b"\0\4\0\0\0\1"), frame(4, 0, 0, b"\0\1\0\0\0\0")),
    *(frame(3, 0, 1, b"\0\0\0\x08"), frame(6, 0, 0, b"12345678"), frame(7, 0, 0, b"\0" * 8)),
    *(frame(0, 1, 1), frame(0, 0, 3, REQUEST), frame(1, 5, 9, plain_headers(POST)), frame(9, 4, 1, b"\x82")),
]


def closed(data: bytes) -> int:
    """The error of the last GOAWAY in what was written; -1 without one."""
    errors = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in frames(data) if kind == GOAWAY]
    return errors[-1] if errors else -1


def converse(connection: Connection, rng: random.Random, text: bytes) -> bytes:
    """What is answered; time passes between reads, and now and then nothing is taken."""
    now_ns = START_NS
    written = []
    for part in cuts(rng, text):
        connection.feed(part, now_ns)
        if rng.random() < 0.2:
            now_ns += rng.choice((1, 500_000_000, 10_000_000_000))
            connection.tick(now_ns)
        if rng.random() < 0.8:
            while (block := connection.take()) is not None:
                written.append(bytes(block))
    if rng.random() < 0.1:
        connection.drain(now_ns)
    if rng.random() < 0.1:
        connection.stop()
    connection._check()
    while (block := connection.take()) is not None:
        written.append(bytes(block))
    connection._check()
    return b"".join(written)


def run(cases: Iterator[tuple[int, bytes]], seed: int) -> dict[int, int]:
    """How many cases ended with a GOAWAY of which error. One server has them all, and nothing is left of any."""
    rng, served = random.Random(seed), service()
    found: dict[int, int] = {}
    gc.collect()
    live = alloc.live_blocks()
    for case, text in cases:
        try:
            connection = Connection(served.server, START_NS)
            error = closed(converse(connection, rng, text))
            assert (error > 0) <= connection.is_over
            connection.close(START_NS)
            assert served.engine.sessions == served.engine.in_flight == served.server.open_calls == 0
        except BaseException:
            print(f"failing case {case}: {text!r}")
            raise
        found[error] = found.get(error, 0) + 1
        if case % EVERY == 0:
            served.assert_idle()
            assert alloc.live_blocks() <= live + FEW
    return found


BLOCKS = [
    plain_headers(POST),
    plain_headers({**POST, "x": "y" * 90}),
    b"\x82\x86\xbe",
    b"",
    BEGIN,
    REQUEST,
    chunk(b"x" * 900),
]
BLOCKS += [
    b"\x7f\xff\xff\xff",
    b"\0\0\0\1",
    b"\0\4\0\0\0\1",
    b"\0\4\x7f\xff\xff\xff",
    b"12345678",
    b"\0" * 8,
    chunk(b""),
]
KINDS = (0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10)
BEGINNING = [(4, 0, 0, b""), (4, 1, 0, b"")]
Frames = list[tuple[int, int, int, bytes]]


def random_frame(rng: random.Random) -> tuple[int, int, int, bytes]:
    """Of any kind, size and content."""
    kind = rng.choice(KINDS) if rng.random() < 0.95 else rng.randrange(256)
    flags = rng.choice((0, 0, 1, 4, 5)) if rng.random() < 0.9 else rng.randrange(256)
    payload = rng.choice(BLOCKS) if rng.random() < 0.7 else rng.randbytes(rng.choice((0, 4, 5, 6, 8, 20, 300)))
    return kind, flags, rng.choice((0, 0, 1, 1, 3, 3, 5, 2, 99)), payload


def edit(rng: random.Random, sent: Frames) -> None:
    """One change that leaves frames frames."""
    at = rng.randrange(len(sent))
    kind, flags, stream, payload = sent[at]
    action = rng.randrange(7)
    if action == 0:
        del sent[at]
    elif action == 1:
        sent.insert(at, random_frame(rng))
    elif action == 2:
        sent.insert(rng.randrange(len(sent)), sent[at])
    elif action == 3:
        sent[at] = kind, flags ^ 1 << rng.randrange(8), stream, payload
    elif action == 4:
        sent[at] = kind, flags, rng.choice((0, 1, 3, 5, 7)), payload
    elif action == 5:
        sent[at] = kind, flags, stream, payload[: rng.randint(0, len(payload))]
    else:
        changed = bytearray(payload)
        mutate(rng, changed, BLOCKS, TOKENS)
        sent[at] = kind, flags, stream, bytes(changed[:16_384])
    sent or sent.append(random_frame(rng))


def edited(rng: random.Random, cases: int) -> Iterator[tuple[int, bytes]]:
    """Conversations with some frames changed: most of what is sent is still understood."""
    corpus = [frames(text[len(PREFACE) :]) for text in CORPUS]
    for case in range(cases):
        sent = list(rng.choice(corpus))
        for _ in range(rng.randint(1, 3)):
            edit(rng, sent)
        yield case, PREFACE + b"".join(starmap(frame, sent))


def random_frames(rng: random.Random, cases: int) -> Iterator[tuple[int, bytes]]:
    """Frames behind a proper beginning; the last may be cut off."""
    for case in range(cases):
        sent = BEGINNING + [random_frame(rng) for _ in range(rng.randint(1, 12))]
        text = PREFACE + b"".join(starmap(frame, sent))
        yield case, text if rng.random() < 0.8 else text[: rng.randint(0, len(text))]


def test_what_clients_send_is_a_corpus() -> None:
    """Unchanged it does no harm: the cases below are about changes."""
    served = service()
    for text in CORPUS:
        assert len(text) > 100
        connection = Connection(served.server, START_NS)
        for at in range(0, len(text), 97):
            connection.feed(text[at : at + 97], START_NS)
        answered = b""
        while (block := connection.take()) is not None:
            answered += bytes(block)
        assert closed(answered) <= 0
        connection.close(START_NS)
    assert served.server.counters()["faults"] == 0
    assert served.server.counters()["calls"] > 10
    served.assert_idle()


ERRORS = {1: "PROTOCOL", 3: "FLOW_CONTROL", 5: "STREAM_CLOSED", 6: "FRAME_SIZE", 9: "COMPRESSION"}


def assert_right(found: dict[int, int], *wanted: int) -> None:
    """No error that is ours, all that the changes should come to, and conversations that live on."""
    assert set(found) <= {-1, 0, *ERRORS, 11}, found  # 11: too much of something
    assert CASES < 10_000 or set(wanted) <= set(found), found
    assert found[-1] > sum(found.values()) // 100


def test_mutated_conversations() -> None:
    assert_right(run(mutants(CORPUS, TOKENS, seed=SEED, steps=3), SEED), 1, 5, 6, 9)


def test_conversations_with_other_frames() -> None:
    assert_right(run(edited(random.Random(SEED), CASES // 2), SEED), 1, 5, 6, 9)


def test_random_frames() -> None:
    assert_right(run(random_frames(random.Random(SEED), CASES // 2), SEED), *ERRORS)
