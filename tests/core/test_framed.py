import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core.framed import FrameScanner
from tests.core.test_sse import cut
from tests.model import framed as model
from tests.support.leaks import assert_flat
from tests.support.protobuf import chunk, complete, embedding, field, frame, packed, varint


def read(*pieces: bytes) -> dict[str, Any]:
    scanner = FrameScanner()
    for piece in pieces:
        scanner.feed(piece)
        scanner._check()
    return {name: getattr(scanner, name) for name in model.scan(b"")}


def tokens(*messages: bytes) -> tuple[int | None, ...]:
    found = read(*map(frame, messages))
    assert found["is_whole"] and found["messages"] == len(messages)
    return found["prompt_tokens"], found["completion_tokens"], found["cached_tokens"]


FLOATS = struct.pack("<64f", *(random.Random(3).uniform(-1, 1) for _ in range(64)))
STREAM = b"".join(
    map(
        frame,
        [
            chunk([128256], prompt=300, completion=1, cached=256),
            chunk([5, 300], prompt=300, completion=2, cached=256),
            complete([300], prompt=300, completion=1, cached=256),
        ],
    )
)


def test_reads_a_stream() -> None:
    found = read(STREAM)
    assert (found["prompt_tokens"], found["completion_tokens"], found["cached_tokens"]) == (300, 3, 256)
    assert (found["messages"], found["tokens"], found["is_whole"]) == (3, 2, True)


def test_reads_an_answer_that_is_no_stream() -> None:
    assert tokens(complete([1, 2, 3], prompt=7, completion=3)) == (7, 3, 0)
    assert tokens(complete([1, 2], prompt=7, completion=2), complete([1, 2, 3], prompt=7, completion=3)) == (7, 5, 0)


def test_counts_that_grow_are_not_added_up() -> None:
    assert tokens(*(chunk([], prompt=4, completion=count) for count in (1, 2, 3))) == (4, 3, 0)
    assert tokens(chunk([9], prompt=4, completion=1), complete([1, 2], prompt=4, completion=2)) == (4, 2, 0)


def test_reads_an_embedding() -> None:
    assert tokens(embedding(FLOATS, 12)) == (12, None, None)
    for seed in range(50):
        floats = random.Random(seed).randbytes(400)
        assert tokens(embedding(floats, 12)) == (12, None, None)


def test_token_ids_may_come_one_by_one() -> None:
    ids = b"".join(field(1, number) for number in (4, 500, 70000))
    assert tokens(field(1, ids + field(2, 9))) == (9, 3, 0)


def test_what_is_compressed_is_not_read() -> None:
    found = read(frame(chunk([1], prompt=3), compressed=True))
    assert (found["prompt_tokens"], found["messages"], found["tokens"]) == (None, 1, 1)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"\xff",
        b"\x0b",
        varint(1 << 32),
        b"\x0a\x05\x10\x03",
        b"\x0a\x02\x10\x83",
        b"\x0a\x03\x0a\x05\x01",
        b"\x0a\x0b\x10" + b"\xff" * 10,
        b"\x0d\x01",
        field(3, chunk([1], prompt=3)),
        field(1, b"") + b"\x0f",
        b"\x38\x01",
    ],
)
def test_what_is_none_of_the_known_messages_says_nothing(message: bytes) -> None:
    assert tokens(message)[0] is None
    assert tokens(message, chunk([1], prompt=3, cached=1)) == (3, 1, 1)


def test_counts_that_cannot_be_are_not_taken() -> None:
    assert tokens(chunk([1], prompt=2**32, completion=2**63)) == (None, None, None)
    assert tokens(chunk([1], prompt=2, completion=2**63, cached=2**32)) == (2, 1, 0)


def test_every_cut_gives_the_same_answer() -> None:
    body = STREAM + frame(embedding(FLOATS[:40], 3)) + frame(b"\x0a\x02\x10\x83") + STREAM
    wanted = read(body)
    assert wanted == model.scan(body)
    assert read(*(body[i : i + 1] for i in range(len(body)))) == wanted
    for place in range(len(body)):
        assert read(body[:place], body[place:]) == wanted
        assert read(body[:place]) == model.scan(body[:place])


NUMBERS = st.sampled_from([0, 1, 2, 127, 128, 300, 2**32 - 1, 2**32, 2**63])
IDS = st.lists(st.integers(0, 200_000), max_size=4)
ANSWERS = st.builds(chunk, IDS, prompt=NUMBERS, completion=NUMBERS, cached=NUMBERS) | st.builds(
    complete, IDS, prompt=NUMBERS, completion=NUMBERS, cached=NUMBERS
)
FIELDS = st.builds(field, st.integers(1, 8), NUMBERS | st.binary(max_size=6) | ANSWERS | IDS.map(packed))
MESSAGES = ANSWERS | st.builds(embedding, st.binary(max_size=12), NUMBERS) | st.lists(FIELDS, max_size=4).map(b"".join)
MESSAGES |= st.builds(lambda message, end: message[:end], MESSAGES, st.integers(0, 20)) | st.binary(max_size=12)
BODIES = st.lists(st.builds(frame, MESSAGES, compressed=st.booleans()) | st.binary(max_size=6), max_size=5)


@given(BODIES.map(b"".join), st.lists(st.integers(0, 120), max_size=4))
def test_equals_the_model_on_anything(body: bytes, at: list[int]) -> None:
    assert read(*cut(body, at)) == model.scan(body)


def test_leaks_nothing() -> None:
    assert_flat(lambda: read(STREAM[:9], STREAM[9:]))
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        FrameScanner().feed(memoryview(b"abcd")[::2])
