"""Another model than the one the body names: what is changed, and that nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core.engine import Engine
from tests.model.renaming import change_cut, renamed
from tests.support import messages as m
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    NONE,
    PARTIAL,
    SSE,
    STREAMED,
    assert_idle,
    engine_with,
    error_of,
    failures,
)
from tests.support.gateway import Gateway
from tests.support.h2peer import framed
from tests.support.h2service import PROCESS, Service

NEW, OLD = "x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"
READ = [DUPLEX, BUFFERED, PARTIAL]


def rules(*given: tuple[str | None, str]) -> list[tuple[str, str | None, list[tuple[str, int]]]]:
    return [("rules", model, [(target, 1)]) for model, target in given]


def sent(engine: Engine, mode: int = DUPLEX, body: bytes = BODY, **options: Any) -> Gateway:
    """A request through a gateway that demands what the header asks for, and nothing else."""
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.send_headers(**options)
    gateway.send_body([body[:40], body[40:]])
    return gateway


# --- who names it ---


@pytest.mark.parametrize("mode", READ)
@pytest.mark.parametrize("header", [NEW, OLD])
def test_a_header_names_another_model(mode: int, header: str) -> None:
    engine = engine_with()
    gateway = sent(engine, mode, headers={header: "big"})
    gateway.complete()
    assert json.loads(gateway.request.forwarded) == {**json.loads(BODY), "model": "big"}
    gateway.answer_headers()
    gateway.answer_body(SSE)
    gateway.close()
    assert_idle(engine)
    (decision,) = engine.decisions()
    assert (decision["model"], decision["target_model"], decision["prompt_tokens"]) == ("llama", "big", 152)


@pytest.mark.parametrize("mode", [STREAMED, NONE])
def test_a_body_that_is_not_read_keeps_its_model(mode: int) -> None:
    gateway = sent(engine_with(), mode, headers={NEW: "big"})
    gateway.complete()
    assert gateway.request.forwarded == gateway.request.sent


def test_an_api_that_is_not_read_keeps_its_model() -> None:
    gateway = sent(engine_with(), path="/v1/other", headers={NEW: "big"})
    gateway.complete()
    assert gateway.request.forwarded == BODY


@pytest.mark.parametrize(
    ("headers", "model"),
    [
        ([(NEW, "new"), (OLD, "old")], "new"),
        ([(OLD, "old"), (NEW, "new")], "new"),
        ([(OLD, "one"), (OLD, "two")], "one"),
        ([(NEW, "one"), (NEW, "two"), (OLD, "old")], "one"),
        ([(NEW, "one"), (NEW, "\x01")], "one"),  # what does not count is not looked at
    ],
)
def test_which_header_counts(headers: list[tuple[str, str]], model: str) -> None:
    gateway = Gateway(engine_with())
    message = m.request_headers()
    for key, value in headers:
        message = m.with_header(message, key, value.encode())
    gateway.request.send("headers", b"", False)
    gateway.take(gateway.feed(message, 1))
    gateway.request.change = lambda body: renamed(body, model.encode())
    gateway.send_body([BODY])
    gateway.complete()


def test_a_rule_overrules_the_header() -> None:
    engine = engine_with()
    engine.set_rewrites(rules(("llama", "ruled"), ("other", "not this")))
    gateway = sent(engine, headers={NEW: "ruled"})  # what the gateway expects
    gateway.complete()
    gateway = Gateway(engine)
    gateway.send_headers(headers={NEW: "big"})
    gateway.request.change = lambda body: renamed(body, b"ruled")
    gateway.send_body([BODY])
    gateway.complete()


def test_a_rule_asks_for_the_name_that_is_meant() -> None:
    """Not for how the client spells it."""
    engine = engine_with()
    engine.set_rewrites(rules(('a"b', 'c"d\\')))
    body = b'{"prompt":"a\\"b","model":"a\\u0022b"}'
    gateway = Gateway(engine)
    gateway.send_headers("/v1/completions")
    gateway.request.change = lambda _: b'{"prompt":"a\\"b","model":"c\\"d\\\\"}'
    gateway.send_body([body])
    gateway.complete()


def test_a_header_counts_where_no_rule_does() -> None:
    engine = engine_with()
    engine.set_rewrites(rules(("other", "ruled")))
    sent(engine, headers={OLD: "big"}).complete()


@pytest.mark.parametrize("mode", READ)
def test_a_model_renamed_to_itself_is_not_touched(mode: int) -> None:
    engine = engine_with()
    body = b'{"model":"ll\\u0061ma","messages":[1],"model":"lla\\u006da"}'
    gateway = sent(engine, mode, body, headers={NEW: "llama", "content-length": str(len(body))})
    gateway.complete()
    assert gateway.request.forwarded == body
    assert gateway.headers["content-length"] == str(len(body))
    engine.set_rewrites(rules((None, "llama")))
    gateway = sent(engine, mode, body)
    gateway.complete()
    assert gateway.request.forwarded == body


@pytest.mark.parametrize("value", [b"", b"\xff", b"x" * 257, b"a\x00b", b"\x1f", b"a\x7f", b"\xed\xa0\x80"])
@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, STREAMED])
def test_a_header_that_names_no_model_is_refused(mode: int, value: bytes) -> None:
    engine = engine_with()
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.take(gateway.feed(m.with_header(m.request_headers(modes=(mode, DUPLEX)), NEW, value), 1))
    error = error_of(gateway)
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_header", None)
    gateway.close()
    assert_idle(engine)
    assert failures(engine) == {"BadRewriteHeader": 1}


def test_the_longest_name() -> None:
    sent(engine_with(), headers={NEW: "ü" * 128}).complete()
    sent(engine_with(), BUFFERED, headers={NEW: '"' * 256}).complete()


# --- what is changed ---

NAMES = ["m", "llama", 'a "quoted\\" one', "ü€😀", "x" * 100]
DOCUMENTS = [
    b'{"model":"llama","prompt":"model"}',
    b'{"prompt":["llama","model"],"x":{"model":"llama"},"model":"llama"}',
    b' { "model" : "l\\nama" , "prompt" : "p" , "model":"\\ud83d\\ude00" } \n',
    b'{"prompt":"' + b"p" * 50 + b'","model":"a"}',
]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(DOCUMENTS),
    st.sampled_from(NAMES),
    st.sampled_from(READ),
    st.sampled_from([*range(1, 12), 50, 1000]),
    st.sampled_from(["chunk", "empty", "trailers"]),
)
def test_all_else_stays_as_it_was(body: bytes, name: str, mode: int, chunk_bytes: int, ending: str) -> None:
    """The name lies across the ends of chunks, at the beginning, at the end."""
    engine = engine_with(chunk_bytes=chunk_bytes)
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.send_headers("/v1/completions", headers={NEW: name, "content-length": str(len(body))})
    gateway.send_body([body], ending=ending)
    gateway.complete()
    assert gateway.request.forwarded == renamed(body, name.encode())
    assert gateway.headers["content-length"] == str(len(body) if mode == DUPLEX else len(gateway.request.forwarded))
    gateway.close()
    assert_idle(engine)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DOCUMENTS), st.sampled_from(NAMES), st.sampled_from([1, 2, 3, 7, 11, 50, 1000]))
def test_chunks_are_as_large_as_they_may_be(body: bytes, name: str, chunk_bytes: int) -> None:
    """Over a connection, where the body is lent and not copied."""
    service = Service(engine=engine_with(chunk_bytes=chunk_bytes))
    client = service.client()
    call = client.open(PROCESS)
    call.send(framed(m.request_headers("/v1/completions", headers={NEW: name})) + framed(m.request_body(body)))
    _, *chunks = [m.parse(message).request_body.response.body_mutation for message in call.messages]
    streamed = [chunk.streamed_response for chunk in chunks]
    expected = renamed(body, name.encode())
    assert b"".join(chunk.body for chunk in streamed) == expected
    assert [len(chunk.body) for chunk in streamed[:-1]] == [chunk_bytes] * ((len(expected) - 1) // chunk_bytes)
    assert [chunk.end_of_stream for chunk in streamed] == [False] * (len(streamed) - 1) + [True]
    call.reset()
    client.close()
    service.assert_idle()


CUT = [
    b'{"model":"llama","prompt":"it is never',
    b'{"model":"llama","model":"llama","prompt":["',
    b'{"prompt":"{\\",}","model":"l\\u006c","x":{"model":"a","y":[1,',
    b'{"model":"llama",',
    b'{"x":[{"a":"b,c"},{}],"model":"llama","prompt":"\\',
]
LOST = [
    b'{"model":"lla',
    b'{"model":"llama"',
    b'{"prompt":"p,',
    b"",
    b"{",
    b'{"x":{"model":"llama","a":1,"b',
    b'"a,b',
    b"}},,",
]


@pytest.mark.parametrize("body", CUT)
def test_a_model_before_the_cut_is_renamed(body: bytes) -> None:
    """Where the gateway shows only the beginning of a body."""
    engine = engine_with()
    gateway = Gateway(engine, modes=(PARTIAL, DUPLEX))
    gateway.send_headers("/v1/completions", headers={NEW: "longer name", "content-length": "900000"})
    changed = change_cut(body, b"longer name")
    assert changed is not None
    gateway.request.change = lambda _: changed[0]
    gateway.send_body([body], ending="open")
    gateway.complete()
    assert gateway.headers["content-length"] == str(900_000 + len(changed[0]) - len(body))
    gateway.answer_headers()
    gateway.answer_body(SSE)
    gateway.close()
    assert_idle(engine)
    assert engine.decisions()[0]["target_model"] == "longer name"


@pytest.mark.parametrize("body", LOST)
def test_a_model_behind_the_cut_is_not(body: bytes) -> None:
    gateway = Gateway(engine_with(), modes=(PARTIAL, DUPLEX))
    gateway.send_headers("/v1/completions", headers={NEW: "longer name"})
    gateway.request.change = bytes
    gateway.send_body([body], ending="open")
    gateway.complete()
    assert gateway.request.forwarded == body


# --- how long it is then ---


@pytest.mark.parametrize(
    ("mode", "length", "end", "expected"),
    [
        (BUFFERED, "600", True, "{new}"),  # whatever the client said: this is the body
        (BUFFERED, None, True, "{new}"),
        (PARTIAL, None, True, "{new}"),
        (BUFFERED, "{old}", False, "{new}"),  # trailers follow
        (BUFFERED, None, False, None),  # it came without, and the end may yet be far
        (PARTIAL, "100000", False, "{more}"),  # the rest comes behind it, unseen
        (PARTIAL, None, False, None),
        (PARTIAL, "x", False, "x"),
        (PARTIAL, "", False, ""),
        (PARTIAL, "9" * 19, False, "9" * 19),
        (DUPLEX, "{old}", True, "{old}"),  # the gateway drops it itself
    ],
)
def test_content_length(mode: int, length: str | None, end: bool, expected: str | None) -> None:
    new = renamed(BODY, b"a longer name")
    sizes = {"old": len(BODY), "new": len(new), "more": 100_000 + len(new) - len(BODY)}
    gateway = Gateway(engine_with(), modes=(mode, DUPLEX))
    headers = {NEW: "a longer name"} | ({} if length is None else {"content-length": length.format(**sizes)})
    gateway.send_headers(headers=headers)
    gateway.send_body([BODY], ending="chunk" if end else "open")
    assert gateway.request.forwarded == new
    assert gateway.headers.get("content-length") == (expected and expected.format(**sizes))
