import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker._core.sse import Restorer
from tests.core.test_sse import ANTHROPIC, PIECES, RESPONSES, cut, event
from tests.model import restore as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

TARGET, CLIENT = b"meta/llama-3", b"gpt-4o"


def restored(
    *chunks: bytes, target: bytes = TARGET, client: bytes = CLIENT, event_stream: bool = True, last: bool = True
) -> bytes:
    """What goes on of the chunks; everything has, when the last one is the last of the body."""
    restorer = Restorer(target, client, event_stream=event_stream)
    out = b""
    for number, chunk in enumerate(chunks, 1):
        out += restorer.feed(chunk, last=last and number == len(chunks))
        restorer._check()
    assert not (last and chunks and restorer.held)
    return out


# --- where it is restored ---


@pytest.mark.parametrize(
    "document",
    [
        {"id": "x", "model": "meta/llama-3", "choices": []},
        {"type": "response.created", "response": {"model": "meta/llama-3", "id": 1}},
        {"type": "message_start", "message": {"id": "x", "model": "meta/llama-3"}},
    ],
)
def test_the_clients_name_is_put_back(document: object) -> None:
    body = event(document)
    assert restored(body) == body.replace(TARGET, CLIENT)
    unary = json.dumps(document, indent=1).encode()
    assert restored(unary, event_stream=False) == unary.replace(TARGET, CLIENT)


@pytest.mark.parametrize(
    "document",
    [
        {"model": "meta/llama-33"},
        {"model": "meta/llama-"},
        {"model": ""},
        {"model": None},
        {"model": ["meta/llama-3"]},
        {"model": {"model": "meta/llama-3"}},
        {"choices": [{"model": "meta/llama-3"}]},
        {"choices": {"model": "meta/llama-3"}},
        {"response": {"response": {"model": "meta/llama-3"}}},
        {"usage": {"model": "meta/llama-3"}},
        {"id": "meta/llama-3", "models": "meta/llama-3", "Model": "meta/llama-3"},
        {"content": '"model":"meta/llama-3"'},
        [{"model": "meta/llama-3"}],
        "meta/llama-3",
    ],
)
def test_all_else_stays_as_it_is(document: object) -> None:
    body = event(document)
    assert restored(body) == body
    assert restored(*(body[i : i + 1] for i in range(len(body)))) == body


def test_what_counts_is_what_the_text_stands_for() -> None:
    for written in (b"meta\\/llama-3", b"\\u006deta/llama-\\u0033", b"meta/llama-3"):
        body = b'{"model":"' + written + b'","a":1}'
        assert restored(body, event_stream=False) == b'{"model":"gpt-4o","a":1}'
    smile = "mod\N{GRINNING FACE}le\N{LATIN SMALL LETTER E WITH ACUTE}"
    for ascii_only in (True, False):
        body = json.dumps({"model": smile}, ensure_ascii=ascii_only).encode()
        for place in range(len(body)):
            pieces = (body[:place], body[place:])
            assert restored(*pieces, target=smile.encode(), event_stream=False) == b'{"model": "gpt-4o"}'


def test_the_clients_name_is_put_in_as_it_was_written() -> None:
    client = b'a\\"\\u00e9'
    assert restored(b'{"model":"meta/llama-3"}', client=client, event_stream=False) == b'{"model":"%b"}' % client


def test_every_event_and_every_member() -> None:
    body = event({"model": "meta/llama-3"}) * 3 + b'data: {"model":"meta/llama-3","model":"meta/llama-3"}\n\n'
    assert restored(body) == body.replace(TARGET, CLIENT)


def test_a_document_counts_as_far_as_it_makes_sense() -> None:
    body = b'data: {"model":"meta/llama-3",]"model":"meta/llama-3"}\n\n' + event({"model": "meta/llama-3"})
    assert restored(body) == b'data: {"model":"gpt-4o",]"model":"meta/llama-3"}\n\n' + event({"model": "gpt-4o"})


# --- what is held back ---


def test_only_the_beginning_of_a_name_is_held() -> None:
    restorer = Restorer(TARGET, CLIENT, event_stream=True)
    for chunk, passed, held in (
        (b'data: {"id":"meta/llama-3","model":', b'data: {"id":"meta/llama-3","model":', b""),
        (b'"', b'"', b""),
        (b"meta/", b"", b"meta/"),
        (b"", b"", b"meta/"),
        (b"ll", b"", b"meta/ll"),
        (b"o", b"meta/llo", b""),
        (b'","a":1}\n\ndata: {"model":"meta/llama-3', b'","a":1}\n\ndata: {"model":"', b"meta/llama-3"),
        (b'"}\n\n', b'gpt-4o"}\n\n', b""),
        (b'data: {"model":"meta\\', b'data: {"model":"', b"meta\\"),
        (b"u002", b"", b"meta\\u002"),
        (b"f", b"", b"meta\\u002f"),
        (b"\\n", b"meta\\u002f\\n", b""),
        (b'"}\n\ndata: {"model":"meta/llama-3', b'"}\n\ndata: {"model":"', b"meta/llama-3"),
        (b"3", b"meta/llama-33", b""),
        (b'"}\n\ndata: {"model":"me\n', b'"}\n\ndata: {"model":"me\n', b""),
        (b'data: {"model":"me', b'data: {"model":"me', b""),
        (b'\n\ndata: {"model":"me', b'\n\ndata: {"model":"', b"me"),
        (b'\n\ndata: {"model":"meta', b'me\n\ndata: {"model":"', b"meta"),
    ):
        assert (restorer.feed(chunk), restorer.held) == (passed, held), chunk
        restorer._check()
    assert restorer.feed(b"", last=True) == b"meta"


def test_at_the_end_nothing_is_held() -> None:
    for body in (b'data: {"model":"meta/llama-3', b'data: {"model":"meta/l', b"data: x"):
        for place in range(len(body)):
            assert restored(body[:place], body[place:]) == body
    assert restored(b'{"model":"meta', event_stream=False) == b'{"model":"meta'


def test_a_name_without_end_is_not_held() -> None:
    restorer = Restorer(b"x" * 100, CLIENT, event_stream=False)
    passed = len(restorer.feed(b'{"model":"'))
    for number in range(1, 300):
        passed += len(restorer.feed(b"x"))
        assert passed == 10 + number * (number > 100)


# --- against the model ---

WORDS = [*PIECES, b'"model":', b'"model": "m"', b'"m', b'm"', b"m", b"\\u006d", b"\\u006", b'"model":"m"', b"mm"]
SOUP = st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)
NAMES = st.sampled_from(["model", "response", "message", "usage", "error", "x"])
TEXTS = st.sampled_from(["m", "", "mm", "n", "m\u00e9", "m\N{GRINNING FACE}", "\u00e9m", 'm"', "m/"])
DOCUMENTS = st.recursive(
    TEXTS | st.none() | st.integers(0, 9) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)
TARGETS = st.sampled_from(
    [b"m", b"mm", b"m\\u00e9", "m\u00e9".encode(), "m\N{GRINNING FACE}".encode(), b'm\\"', b"m\\/"]
)
CLIENTS = st.sampled_from([b"c", b"", b"longer-than-the-target", b'\\"', b"m"])
CUTS = st.lists(st.integers(0, 150), max_size=6)


def same(body: bytes, chunks: list[bytes], target: bytes, client: bytes) -> None:
    """Chunk by chunk, and whole."""
    for event_stream in (True, False):
        wanted = model.restore(body, target, client, event_stream=event_stream)
        assert restored(*chunks, target=target, client=client, event_stream=event_stream) == wanted
        core = Restorer(target, client, event_stream=event_stream)
        slow = model.Restorer(target, client, event_stream=event_stream)
        for number, chunk in enumerate(chunks):
            last = number in (3, len(chunks) - 1)  # what follows the fourth is a gateway's mistake
            assert core.feed(chunk, last=last) == slow.feed(chunk, last=last)


@given(SOUP, CUTS, TARGETS, CLIENTS)
@example(b'data: {"model":"m', [16], b"m", b"c")
@example(b'data: {"model":"m\\u00', [18, 20], b"m\\u00e9", b"c")
def test_equals_the_model_on_anything(body: bytes, at: list[int], target: bytes, client: bytes) -> None:
    same(body, cut(body, at), target, client)


@given(DOCUMENTS, CUTS, TARGETS, CLIENTS, st.booleans())
def test_equals_the_model_on_any_document(
    document: object, at: list[int], target: bytes, client: bytes, ascii_only: bool
) -> None:
    body = json.dumps({"model": "m", "response": document}, ensure_ascii=ascii_only).encode()
    same(body, cut(body, at), target, client)
    body = b"data: " + body + b"\r\n\r\ndata:" + body.replace(b", ", b",\r\ndata: ") + b"\n\n"
    same(body, cut(body, at), target, client)


@pytest.mark.parametrize("body", [RESPONSES, ANTHROPIC])
def test_every_cut_gives_the_same_bytes(body: bytes) -> None:
    body = body.replace(b'{"usage"', b'{"model":"meta/llama-3","usage"', 1)
    body = body.replace(b'{"id"', b'{"model":"meta/ll","id"', 1)
    wanted = body.replace(TARGET, CLIENT)
    for place in range(len(body)):
        assert restored(body[:place], body[place:]) == wanted, place


def test_what_goes_on_and_what_is_held_is_what_came() -> None:
    rng = random.Random(5)
    for _ in range(200):
        restorer = Restorer(b"abab", b"abab", event_stream=False)
        body = b'{"model":"' + b"".join(rng.choices([b"a", b"b", b"\\u0061", b'"'], k=6))
        out, at = b"", 0
        while at < len(body):
            size = rng.randint(1, 5)
            out += restorer.feed(body[at : at + size])
            at += size
            assert out + restorer.held == body[:at]


# --- arguments and memory ---


def test_arguments() -> None:
    for target, client in ((b'"', b"x"), (b"x", b"\\"), (b"\n", b"x")):
        with pytest.raises(ValueError, match="not a JSON string"):
            Restorer(target, client, event_stream=True)
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        Restorer(b"x", b"y", event_stream=True).feed(memoryview(b"abcd")[::2])


def life() -> None:
    body = event({"model": "meta/llama-3"})
    assert restored(body[:20], body[20:25], body[25:]) == body.replace(TARGET, CLIENT)


def test_leaks_nothing() -> None:
    assert_flat(life)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(life) == 4
