import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker._core.sse import UsageScanner
from tests.model import sse as model
from tests.support.leaks import assert_flat

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
}


def chat_chunk(text: str, usage: object = None) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1694268190, "model": "tiny"}
    return json.dumps({**head, "choices": [delta], "usage": usage}, separators=(",", ":")).encode()


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def read(*chunks: bytes, event_stream: bool = True, finish: bool = True) -> dict[str, Any]:
    scanner = UsageScanner(event_stream)
    for chunk in chunks:
        scanner.feed(chunk)
        scanner._check()
    if finish:
        scanner.finish()
        scanner._check()
    return {name: getattr(scanner, name) for name in model.START}


def stream(*documents: object) -> dict[str, Any]:
    return read(*map(event, documents))


def tokens(found: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(found[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"))


CHAT = b"".join(
    [b"data: " + chat_chunk(text) + b"\n\n" for text in ("", "Hel", 'lo "usage": {"prompt_tokens": 1} \n\\ é')]
    + [b"data: " + chat_chunk("", USAGE) + b"\n\n", b"data: [DONE]\n\n"]
)
RESPONSES = b"""event: response.created\r
data: {"type":"response.created","response":{"id":"r","usage":null,"error":null}}\r
\r
data: {"type":"response.output_text.delta","delta":"Hi"}\r
\r
: keep alive\r
event: response.completed\r
id: 7\r
data: {"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6,"total_tokens":11,\r
data: "input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":0}}}}\r
\r
"""
ANTHROPIC = b"""event: message_start\r\
data:{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1,"cache_read_input_tokens":7,\r
data: "cache_creation_input_tokens":2}}}\r
\r
data:{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\r
\r
data:{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}\n
data: {"type":"error","error":{"type":"overloaded_error"}}\n
event: message_stop
data: {"type":"message_stop"}\n\nretry: 5\n\n"""
UNARY = json.dumps({"choices": [{"message": {"content": 'said "usage":{"x":1}'}}], "usage": USAGE}, indent=1).encode()


# --- real-looking bodies ---


def test_reads_a_chat_stream() -> None:
    found = read(CHAT)
    assert tokens(found) == (9, 12, 21, 8)
    assert found["events"] == 4
    assert found["done"] and not found["saw_error"]
    assert found["tokens"] == 4
    assert found["end"] == "complete"


def test_reads_responses_api_events() -> None:
    found = read(RESPONSES)
    assert tokens(found) == (5, 6, 11, 4)
    assert found["done"] and found["tokens"] == 1


def test_reads_anthropic_events() -> None:
    found = read(ANTHROPIC)
    assert tokens(found) == (25 + 7 + 2, 15, None, 7)
    assert found["saw_error"] and found["done"] and found["tokens"] == 1


def test_reads_a_unary_body() -> None:
    found = read(UNARY, event_stream=False)
    assert tokens(found) == (9, 12, 21, 8)
    assert (found["events"], found["end"], found["done"]) == (1, "complete", False)


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 1, "cache_read_input_tokens": 4}, (5, 1, None, 4)),
        ({"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3}}, (5, None, None, 3)),
        ({"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": None}, (8, None, None, 3)),
        ({"input_tokens": 2**63 - 2, "cache_read_input_tokens": 3}, (2**63 - 1, None, None, 3)),
        ({"prompt_tokens": 5, "total_tokens": 5}, (5, None, 5, None)),
        ({"total_tokens": 5}, (5, None, 5, None)),
        ({"total_tokens": 5, "completion_tokens": 3}, (None, 3, 5, None)),
    ],
)
def test_every_form_of_usage(usage: object, wanted: tuple[int | None, ...]) -> None:
    assert tokens(stream({"usage": usage})) == wanted
    assert tokens(read(json.dumps({"usage": usage}).encode(), event_stream=False)) == wanted


def test_reads_what_sglang_says_of_its_own() -> None:
    meta = {"id": "x", "prompt_tokens": 4, "completion_tokens": 1, "cached_tokens": 2, "finish_reason": None}
    events = [{"text": "a", "meta_info": meta}, {"text": "ab", "meta_info": {**meta, "completion_tokens": 2}}]
    assert tokens(stream(*events)) == (4, 2, None, 2)
    assert tokens(stream({"x": {"meta_info": meta}}, {"response": {"meta_info": meta}})) == (None, None, None, None)


@pytest.mark.parametrize(
    ("kind", "done", "failed"),
    [
        ("message_stop", True, False),
        ("response.completed", True, False),
        ("response.incomplete", True, False),
        ("response.failed", True, True),
        ("error", False, True),
        ("ping", False, False),
        ("response.in_progress", False, False),
        ("response.content_part.added", False, False),
    ],
)
def test_what_an_event_is_called(kind: str, done: bool, failed: bool) -> None:
    twice = b'data: {"type":"x","type2":1,"type":"%b"}\n\n' % kind.encode()
    for body in (event({"type": kind}), event({"a": 1, "type": kind, "b": {"type": "x"}}), twice):
        found = read(body)
        assert (found["done"], found["saw_error"], found["tokens"]) == (done, failed, 0)
    for document in ({"type": [kind]}, {"x": {"type": kind}}, {"response": {"type": kind}}, {"type": kind + "s"}):
        found = stream(document)
        assert (found["done"], found["saw_error"], found["tokens"]) == (False, False, 1)


def test_the_last_usage_wins() -> None:
    assert tokens(stream({"usage": {"completion_tokens": 1}}, {"usage": {"completion_tokens": 2}}))[1] == 2
    assert tokens(stream({"usage": {"completion_tokens": 1}}, {"usage": None}, {"usage": {}}))[1] == 1


def test_an_error_object_is_seen_and_a_null_one_is_not() -> None:
    assert stream({"error": {"message": "no"}})["saw_error"]
    assert stream({"response": {"error": {"code": "x"}}})["saw_error"]
    assert not stream({"error": None}, {"error": "text"}, {"x": {"error": {}}})["saw_error"]
    assert read(b'{"error":{}}', event_stream=False)["saw_error"]


# --- what is not usage ---


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 5}'}}]},
        {"choices": [{"usage": {"prompt_tokens": 5}}]},
        {"choices": {"usage": {"prompt_tokens": 5}}},
        {"usage": [{"prompt_tokens": 5}]},
        {"usage": {"x": {"prompt_tokens": 5}}},
        {"usage": {"prompt_tokens": [5], "completion_tokens": {"prompt_tokens": 5}}},
        {"usage": {"prompt_tokens": "5"}},
        {"usage": {"prompt_tokens": None}},
        {"usage": {"prompt_tokens": 5.0}},
        {"usage": {"prompt_tokens": -5}},
        {"usage": {"prompt_tokens": 2**63}},
        {"usage": {"prompt_tokens_details": 5, "cached_tokens": 5}},
        {"response": {"response": {"usage": {"prompt_tokens": 5}}}},
        {"usage ": {"prompt_tokens": 5}},
        [{"usage": {"prompt_tokens": 5}}],
        {"usage_and_a_name_longer_than_any": {"prompt_tokens": 5}},
    ],
)
def test_is_not_fooled(document: object) -> None:
    found = stream(document)
    assert tokens(found) == (None, None, None, None)
    assert found["events"] == 1


def test_names_may_be_escaped() -> None:
    assert tokens(read(b'data: {"\\u0075sa\\u0067e":{"prompt\\u005Ftokens":3}}\n\n'))[0] == 3


def test_the_largest_count_is_read() -> None:
    assert tokens(stream({"usage": {"prompt_tokens": 2**63 - 1}}))[0] == 2**63 - 1


# --- framing ---


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("prefix", [b"data:", b"data: ", b": hello{}\ndata: ", b"event: x\nid\ndata:  "])
def test_any_line_end_and_spacing(newline: bytes, prefix: bytes) -> None:
    body = (prefix + b'{"usage":{"prompt_tokens":3}}\n\n').replace(b"\n", newline)
    assert read(body)["prompt_tokens"] == 3
    assert read(body, finish=False)["events"] == 1


@pytest.mark.parametrize("field", [b"dat", b"datax", b"Data", b" data", b"", b":data"])
def test_other_fields_are_passed_over(field: bytes) -> None:
    found = read(field + b': {"usage":{"prompt_tokens":3}}\n\n')
    assert (found["prompt_tokens"], found["events"], found["tokens"]) == (None, 0, 0)


def test_events_without_data_are_none() -> None:
    assert read(b"\n\ndata\n\ndata:\n\ndata: \ndata:\n\n: c\n\n")["events"] == 0
    assert read(b'data\ndata: {"usage":\ndata:{"prompt_tokens":1}}\ndata\n\n')["prompt_tokens"] == 1


def test_a_token_is_seen_as_soon_as_its_event_is_whole() -> None:
    scanner = UsageScanner(True)
    for chunk in (b": hi\n\n", b"event: x\nda", b"ta", b":", b" ", b"{", b'"a":1}', b"\n"):
        scanner.feed(chunk)
        assert scanner.tokens == 0
    scanner.feed(b"\n")
    assert scanner.tokens == 1
    scanner.feed(b'data: [DONE]\n\ndata: {"error":{}}\n\n')
    assert scanner.tokens == 1
    scanner.feed(b"data: what is this\n\n")
    assert scanner.tokens == 2


def test_a_unary_body_is_one_token() -> None:
    scanner = UsageScanner(False)
    for chunk, tokens in ((b" \n", 0), (b"{", 1), (b"}", 1)):
        scanner.feed(chunk)
        assert scanner.tokens == tokens
    scanner.finish()
    assert scanner.tokens == 1


def test_malformed_json_loses_only_its_event() -> None:
    found = read(b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage":{"prompt_tokens":2}}}\n\n' + event({"a": 1}))
    assert (found["prompt_tokens"], found["events"], found["malformed"], found["end"]) == (1, 2, 1, "complete")


def test_a_body_may_end_without_its_blank_line() -> None:
    body = b'data: {"usage":{"prompt_tokens":1}}'
    assert read(body, finish=False)["prompt_tokens"] is None
    assert (read(body)["prompt_tokens"], read(body)["end"]) == (1, "complete")
    assert (read(body[:-1])["prompt_tokens"], read(body[:-1])["end"]) == (None, "cut")
    assert read(b"data: [DONE]")["done"]
    assert read(b"data: [DONE")["end"] == "cut"
    assert read(b"")["end"] == "complete"
    assert read(b"", finish=False)["end"] == "open"
    assert read(b"", event_stream=False)["end"] == read(b"{", event_stream=False)["end"] == "cut"


def test_nothing_is_read_after_the_end() -> None:
    scanner = UsageScanner(True)
    scanner.finish()
    scanner.feed(event({"usage": USAGE}))
    scanner.finish()
    assert scanner.events == 0


@pytest.mark.parametrize("depth", [63, 64, 65])
def test_nesting_is_limited(depth: int) -> None:
    for left, right in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = left * depth + b"1" + right * depth
        assert read(b"data:" + nested + b"\n\n")["malformed"] == (depth > 64)
        assert read(nested, event_stream=False) == model.scan(nested, event_stream=False)


# --- against the model ---

PIECES = [
    b"data: ",
    b"data:",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"[DONE]",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"usage":',
    b'"error":',
]
PIECES += [b'"meta_info":{', b'"cache_read_input_tokens":', b'"type":', b'"message_stop"', b'"error"', b'"ping"']
PIECES += [b'"message":', b'"response":', b'"prompt_tokens":', b'"cached_tokens":', b'"input_tokens_details":{']
PIECES += [
    b"1",
    b"0",
    b"-",
    b".5",
    b"e",
    b"1e2",
    b"null",
    b"true",
    b"fals",
    b'"',
    b"\\",
    b"\\u0041",
    b'\\"',
    b" ",
    b":",
]
PIECES += [b'\n\ndata: {"usage":{"prompt_tokens":7}', b'}\n\ndata: {"response":{"usage":{"total_tokens":8', b"}}}\n\n"]
SOUP = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
NAMES = st.sampled_from(
    """usage error response prompt_tokens input_tokens prompt_tokens_details cached_tokens meta_info type total_tokens
    cache_read_input_tokens cache_creation_input_tokens""".split()
)
KINDS = st.sampled_from(["message_stop", "response.failed", "error", "ping", "message_start", "response.created", "x"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 10) | st.floats(allow_nan=False, allow_infinity=False) | KINDS
DOCUMENTS = st.recursive(SCALARS | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner))


def same(body: bytes, chunks: list[bytes]) -> None:
    for event_stream in (True, False):
        assert read(*chunks, event_stream=event_stream) == model.scan(body, event_stream=event_stream)


def cut(body: bytes, at: list[int]) -> list[bytes]:
    bounds = sorted(min(place, len(body)) for place in at)
    return [body[start:stop] for start, stop in zip([0, *bounds], [*bounds, len(body)], strict=True)]


@pytest.mark.parametrize("body", [CHAT, RESPONSES, ANTHROPIC, UNARY])
def test_every_cut_gives_the_same_answer(body: bytes) -> None:
    same(body, [body])
    same(body, [body[index : index + 1] for index in range(len(body))])
    for place in range(len(body)):
        found = read(body[:place], body[place:])
        assert found == model.scan(body, event_stream=True), place


@given(SOUP, st.lists(st.integers(0, 200), max_size=4))
@example(b'data: {"usage":{"prompt_tokens":1', [])
@example(b"data: 12\n\ndata: -\n\ndata: 01\n\ndata: 1.\n\ndata: 1e+2", [])
@example(b"data: [DO\ndata: NE]\n\n", [9])
def test_equals_the_model_on_anything(body: bytes, at: list[int]) -> None:
    same(body, cut(body, at))


@given(DOCUMENTS, st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_equals_the_model_on_any_document(document: object, at: list[int], ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    same(body, cut(body, at))
    same(b"data: " + body + b"\n\n", cut(b"data: " + body + b"\n\n", at))


@given(st.binary(max_size=60))
def test_strings_hold_anything(raw: bytes) -> None:
    body = b'{"a":"' + raw + b'","usage":{"prompt_tokens":4}}'
    same(body, [body])


def test_leaks_nothing() -> None:
    assert_flat(lambda: read(CHAT[:100], CHAT[100:]))
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        UsageScanner(True).feed(memoryview(b"abcd")[::2])
