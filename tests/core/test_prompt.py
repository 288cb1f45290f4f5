import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import apis, prompt
from tests.model import prompt as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

CHAT, COMPLETIONS = b"/v1/chat/completions", b"/v1/completions"
LONG = "All work and no play makes Jack a dull boy. " * 40  # several index blocks
QUESTION = {"role": "user", "content": LONG + "Why?"}


def chat(*messages: object, **members: object) -> bytes:
    return json.dumps({"model": "llama", "messages": messages, **members}).encode()


def completion(text: object, **members: object) -> bytes:
    return json.dumps({"model": "llama", "prompt": text, **members}).encode()


def hashes(body: bytes, path: bytes = CHAT, seed: int = 7) -> list[int]:
    found: list[int] = prompt.read(path, body, seed)["hashes"]
    return found


# --- what the body must hold ---


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        (CHAT, b"", apis.BODY_NOT_JSON),
        (CHAT, b"{", apis.BODY_NOT_JSON),
        (CHAT, b"[]", apis.BODY_NOT_OBJECT),
        (CHAT, b'"model"', apis.BODY_NOT_OBJECT),
        (CHAT, b"{}", "model"),
        (CHAT, b'{"model":""}', "model"),
        (CHAT, b'{"model":null}', "model"),
        (CHAT, b'{"model":["x"]}', "model"),
        (CHAT, b'{"model":"x"}', "messages"),
        (CHAT, b'{"model":"x","messages":[]}', "messages"),
        (CHAT, b'{"model":"x","messages":"hello"}', "messages"),
        (CHAT, b'{"model":"x","prompt":"hello"}', "messages"),
        (COMPLETIONS, b'{"model":"x","messages":[1]}', "prompt"),
        (COMPLETIONS, b'{"model":"x","prompt":""}', "prompt"),
        (COMPLETIONS, b'{"model":"x","prompt":[]}', "prompt"),
        (COMPLETIONS, b'{"model":"x","prompt":{"a":1}}', "prompt"),
        (CHAT, b'{"model":"x","messages":[1]}', apis.BODY_OK),
        (COMPLETIONS, b'{"model":"x","prompt":[7]}', apis.BODY_OK),
        (COMPLETIONS, b'{"model":"x","prompt":[""]}', apis.BODY_OK),
    ],
)
def test_bodies_are_refused_by_what_they_lack(path: bytes, body: bytes, problem: int | str) -> None:
    found = prompt.read(path, body)
    assert (found["field"] or found["refused"]) == problem
    assert found == model.read(path, body)
    assert bool(found["field"]) == (found["refused"] == apis.BODY_LACKS)


def test_limits_on_the_json() -> None:
    body = chat({"role": "user", "content": "x"})
    assert prompt.read(CHAT, body, values=4)["refused"] == apis.BODY_TOO_COMPLEX
    assert prompt.read(CHAT, body, depth=2)["refused"] == apis.BODY_TOO_COMPLEX
    assert prompt.read(CHAT, body, depth=3)["refused"] == apis.BODY_OK
    with pytest.raises(ValueError, match="1024"):
        prompt.read(CHAT, body, depth=1025)


def test_the_deepest_body_that_may_be_is_digested() -> None:
    deep = b'{"model":"x","messages":[{"role":"user","x":' + b'{"a":[' * 510 + b"]}" * 510 + b"}]}"
    assert prompt.read(CHAT, deep, depth=1024)["refused"] == apis.BODY_OK


def test_a_body_of_an_unknown_api_is_not_read() -> None:
    assert prompt.read(b"/v1/files", b"{") == {"api": apis.API_OTHER, "refused": apis.BODY_OK, "field": ""}


@pytest.mark.parametrize(
    ("members", "max_tokens"),
    [
        ({}, -1),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 5e2}, 500),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 0.5}, -1),
        ({"max_tokens": -1}, -1),
        ({"max_tokens": "5"}, -1),
        ({"max_tokens": 2**31 - 1}, 2**31 - 1),
        ({"max_tokens": 2**31}, -1),
        ({"max_tokens": 2**80}, -1),
    ],
)
def test_max_tokens(members: dict[str, Any], max_tokens: int) -> None:
    assert prompt.read(CHAT, chat("x", **members))["max_tokens"] == max_tokens


def test_stream_and_model() -> None:
    assert prompt.read(CHAT, chat("x", stream=True))["stream"]
    assert not prompt.read(CHAT, chat("x", stream="true"))["stream"]
    assert not prompt.read(CHAT, chat("x", stream=1))["stream"]
    body = b'{"model":"other","messages":[1],"mod\\u0065l":"ll\\u00e4ma \\ud800"}'
    assert prompt.read(CHAT, body)["model"] == "llä".encode() + b"ma \xed\xa0\x80"


def test_a_very_long_model_name() -> None:
    name = "x" * 100_000
    assert prompt.read(CHAT, chat("x", model=name))["model"] == name.encode()


# --- what is hashed ---


def test_the_order_of_members_does_not_matter() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    other = {"function": {"arguments": "{}", "name": "f"}, "type": "function", "id": "c1"}
    one = chat({"role": "assistant", "content": LONG, "name": "n", "tool_calls": [call]}, QUESTION, temperature=1)
    two = (
        b'{"temperature":1,"messages":%b,"model":"llama"}'
        % json.dumps(
            [
                {"tool_calls": [other], "name": "n", "content": LONG, "role": "assistant"},
                dict(reversed(QUESTION.items())),
            ]
        ).encode()
    )
    assert hashes(one) == hashes(two) != []


def test_null_members_do_not_matter() -> None:
    bare = {"role": "assistant", "content": LONG}
    full = {**bare, "refusal": None, "audio": None, "function_call": None}
    assert hashes(chat(bare)) == hashes(chat(full))
    assert hashes(chat({"role": "tool", "x": LONG})) == hashes(chat({"role": "tool", "x": LONG, "content": None}))
    assert hashes(chat(bare, tools=None, cache_salt=None)) == hashes(chat(bare))


def test_a_longer_conversation_extends_the_hashes() -> None:
    messages: list[object] = [{"role": "system", "content": LONG}]
    before: list[int] = []
    for turn in range(5):
        now = hashes(chat(*messages, tools=[{"type": "function"}]))
        assert len(now) > len(before) and now[: len(before)] == before
        before = now
        messages += [{"role": "user", "content": f"{turn} {LONG}"}, {"role": "assistant", "content": LONG, "id": turn}]


@pytest.mark.parametrize(
    "other",
    [
        chat(QUESTION, model="llama-2"),
        chat(QUESTION, cache_salt="mine"),
        chat(QUESTION, tools=[{"type": "function"}]),
        chat({**QUESTION, "role": "system"}),
        chat({**QUESTION, "content": "x" + LONG}),
        chat({"role": "system", "content": ""}, QUESTION),
        chat({**QUESTION, "content": [{"type": "text", "text": "x"}, {"type": "text", "text": LONG}]}),
        completion(LONG),
    ],
)
def test_what_must_tell_prompts_apart(other: bytes) -> None:
    path = COMPLETIONS if b'"prompt"' in other else CHAT
    assert not set(hashes(chat(QUESTION))) & set(hashes(other, path))


def test_other_members_tell_messages_apart() -> None:
    calls = [{"function": {"name": name, "arguments": LONG}} for name in ("f", "g")]
    one, two = (chat({"role": "assistant", "content": None, "tool_calls": [call]}, QUESTION) for call in calls)
    assert not set(hashes(one)) & set(hashes(two))
    long_call = prompt.read(CHAT, one)["tokens"] - prompt.read(CHAT, chat(QUESTION))["tokens"]
    assert len(LONG) // 4 <= long_call < len(LONG) // 4 + 30  # they are as long as they are


def test_the_seed_and_the_salt_tell_tenants_apart() -> None:
    assert not set(hashes(chat(QUESTION), seed=1)) & set(hashes(chat(QUESTION), seed=2))
    salted = [hashes(chat(QUESTION, cache_salt=salt)) for salt in ("a", "b", "")]
    assert len({tuple(found) for found in salted}) == 3


def test_images_stand_for_256_tokens_and_are_told_apart() -> None:
    def picture(url: str, *order: str) -> bytes:
        image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        return chat({"role": "user", "content": [{key: image[key] for key in order or image}, {"text": LONG}]})

    text = prompt.read(CHAT, chat({"role": "user", "content": [{"text": LONG}]}))["tokens"]
    small, large = picture("data:image/png;base64,AA=="), picture("data:image/png;base64," + "A" * 100_000)
    assert prompt.read(CHAT, small)["tokens"] == prompt.read(CHAT, large)["tokens"]
    assert prompt.read(CHAT, small)["tokens"] - text == 256
    assert not set(hashes(small)) & set(hashes(large))
    assert hashes(picture("u", "type", "image_url")) == hashes(picture("u", "image_url", "type"))


def test_token_ids() -> None:
    ids = list(range(1000))
    found = prompt.read(COMPLETIONS, completion(ids))
    assert (found["tokens"], len(found["hashes"])) == (1000, 15)
    assert prompt.read(COMPLETIONS, completion([ids])) == found
    spaced = json.dumps({"model": "llama", "prompt": ids}, indent=2).encode()
    assert prompt.read(COMPLETIONS, spaced) == found
    assert hashes(completion(ids[:500]), COMPLETIONS) == hashes(completion(ids), COMPLETIONS)[:7]


def test_a_list_of_one_text_is_that_text() -> None:
    assert hashes(completion([LONG]), COMPLETIONS) == hashes(completion(LONG), COMPLETIONS)
    assert hashes(completion([LONG, "x"]), COMPLETIONS)[:6] == hashes(completion(LONG), COMPLETIONS)[:6]


def test_no_more_blocks_and_tokens_than_there_is_room_for() -> None:
    found = prompt.read(CHAT, chat(QUESTION), blocks=2)
    assert (len(found["hashes"]), found["tokens"]) == (2, 128)
    pictures = chat({"role": "user", "content": [{}] * 100_000})
    assert prompt.read(CHAT, pictures, blocks=100)["tokens"] == 6400


# --- against the model ---

TEXT = st.text(st.sampled_from('abé"\\\n中😀\ud800'), max_size=8) | st.integers(0, 600).map(lambda size: "x" * size)
SCALAR = st.none() | st.booleans() | st.integers(0, 5) | st.floats(0, 9) | TEXT
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.integers(0, 2**32 - 1), max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "id", "é\n"]), inner, max_size=4)
    ),
    max_leaves=8,
)
PART = st.builds(lambda text: {"type": "text", "text": text}, TEXT) | VALUE
MESSAGE = (
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "tool"]), "content": TEXT | st.lists(PART, max_size=3)},
        optional={"name": TEXT, "tool_calls": VALUE, "refusal": st.none()},
    )
    | VALUE
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "tools": VALUE,
    "cache_salt": SCALAR,
    "stream": SCALAR,
    "max_tokens": SCALAR,
    "max_completion_tokens": SCALAR,
}
BODY = st.fixed_dictionaries(
    {"model": TEXT},
    optional={**MEMBERS, "messages": st.lists(MESSAGE, max_size=4) | SCALAR, "prompt": VALUE | st.lists(TEXT)},
)
STYLE = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 1]), "separators": st.just((" ,", ": "))}
)


def dumps(value: object, style: dict[str, Any]) -> bytes:
    return json.dumps(value, **style).encode("utf-8", "surrogatepass")


def shuffled(message: Any, rng: random.Random) -> Any:
    """The same message, its members and those of its text parts in another order; other values stand as they are."""
    if not isinstance(message, dict):
        return message
    made = reordered(message, rng)
    if isinstance(made.get("content"), list):
        made["content"] = [reordered(part, rng) if is_text_part(part) else part for part in made["content"]]
    return made


def reordered(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return {name: value[name] for name in rng.sample(sorted(value), len(value))}


def is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and set(part) == {"type", "text"} and isinstance(part["text"], str)


@settings(max_examples=300)
@given(BODY, STYLE, st.sampled_from([CHAT, COMPLETIONS]), st.integers(0, 2**64 - 1), st.sampled_from([1, 3, 65536]))
def test_equals_the_model(body: dict[str, Any], style: dict[str, Any], path: bytes, seed: int, blocks: int) -> None:
    text = dumps(body, style)
    assert prompt.read(path, text, seed, blocks=blocks) == model.read(path, text, seed, blocks)


@given(st.lists(MESSAGE, min_size=1, max_size=4), STYLE, st.randoms(use_true_random=False))
def test_equal_conversations_hash_equal(messages: list[Any], style: dict[str, Any], rng: random.Random) -> None:
    one = {"model": "m", "messages": [{"role": "user", "content": "x" * 300}, *messages]}
    other = {**one, "messages": [shuffled(message, rng) for message in one["messages"]]}
    assert prompt.read(CHAT, dumps(one, style)) == prompt.read(CHAT, dumps(other, style))


@given(st.lists(MESSAGE, min_size=1, max_size=3), MESSAGE)
def test_one_more_message_only_appends(messages: list[Any], more: Any) -> None:
    shorter, longer = (hashes(dumps({"model": "m", "messages": m}, {})) for m in (messages, [*messages, more]))
    assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize(
    "message",
    [
        b'{"role":"a","role":"b","content":"x","content":["y"]}',
        b'{"role":"a","role":null,"content":null,"content":{"text": 1}}',
        b'{"r\\u006fle":"a","content":[{"text":null},{"t\\u0065xt":"y"},[1, 2],[],{},"z"]}',
        b'{"":"","content":[1,2]}',
        b'{"":[1 , 4294967295],"x":[1,4294967296]}',
    ],
)
def test_odd_messages_equal_the_model(message: bytes) -> None:
    body = b'{"model":"m","messages":[%b,"%b"]}' % (message, b"x" * 600)
    assert prompt.read(CHAT, body) == model.read(CHAT, body)


# --- memory ---


def test_leaks_nothing() -> None:
    bodies = [chat(QUESTION), completion([[1, 2], "x"]), b"{", b"[]", b'{"model":"x"}', b"[" * 300]

    def each() -> None:
        for body in bodies:
            prompt.read(CHAT, body, blocks=8)
            prompt.read(COMPLETIONS, body, blocks=8)

    assert_flat(each, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: prompt.read(CHAT, chat(QUESTION), blocks=8)) > 0
