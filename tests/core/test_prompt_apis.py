"""What is read of the body of each API: one example of each shape, and each refusal."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import apis, prompt
from tests.core.test_prompt import STYLE, TEXT, VALUE, dumps
from tests.model import prompt as model

LONG = "All work and no play makes Jack a dull boy. " * 40
OTHER = "Something else altogether, and that at length. " * 40
IDS = list(range(1000))
JSON_APIS = [row for row in apis.table()[1:] if row["format"] != "grpc"]


def read(path: str, **body: Any) -> dict[str, Any]:
    text = json.dumps(body).encode()
    found = prompt.read(path.encode(), text, 7)
    assert found == model.read(path.encode(), text, 7)
    return found


def hashes(path: str, **body: Any) -> list[int]:
    found: list[int] = read(path, **body)["hashes"]
    assert found
    return found


def common(one: list[int], other: list[int]) -> int:
    """Blocks that both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- what is needed ---

NEEDS = {
    "/v1/chat/completions": (["model", "messages"], {"model": "m", "messages": ["x"]}),
    "/v1/chat/completions/render": (["model", "messages"], {"model": "m", "messages": ["x"]}),
    "/v1/completions": (["model", "prompt"], {"model": "m", "prompt": "x"}),
    "/v1/completions/render": (["model", "prompt"], {"model": "m", "prompt_embeds": "eA=="}),
    "/v1/responses": (["model", "input"], {"model": "m", "input": ""}),
    "/v1/conversations": ([], {}),
    "/v1/embeddings": (["input"], {"input": ""}),
    "/v1/images/generations": (["prompt"], {"prompt": ""}),
    "/v1/images/edits": ([], {}),
    "/v1/images/variations": ([], {}),
    "/v1/audio/transcriptions": ([], {}),
    "/v1/audio/translations": ([], {}),
    "/v1/audio/speech": (["input"], {"input": "x"}),
    "/v1/moderations": (["input"], {"input": [{"type": "text", "text": "x"}]}),
    "/v1/rerank": (["query", "documents"], {"query": "x", "documents": []}),
    "/v1/score": (["queries", "documents"], {"text_1": "x", "data_2": [""]}),
    "/classify": (["input"], {"messages": []}),
    "/pooling": (["input"], {"data": {"any": 1}}),
    "/tokenize": (["prompt"], {"prompt": ""}),
    "/detokenize": (["tokens"], {"tokens": []}),
    "/v1/messages": (["model", "messages"], {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
    "/v1/messages/count_tokens": (["model", "messages"], {"model": "m", "messages": [0]}),
    "/inference/v1/generate": (["token_ids"], {"token_ids": [1]}),
    "/generate": (["text"], {"input_ids": []}),
}


def test_every_api_is_among_the_examples() -> None:
    assert {apis.find(path.encode()) for path in NEEDS} == {apis.find(row["suffix"].encode()) for row in JSON_APIS}


@pytest.mark.parametrize("path", NEEDS)
def test_what_lacks_is_named(path: str) -> None:
    """First of a body that has nothing, then of one that lacks only the last."""
    needed, enough = NEEDS[path]
    assert read(path)["field"] == (needed[0] if needed else "")
    assert read(path, **dict.fromkeys(enough))["field"] == (needed[0] if needed else "")
    assert read(path, **enough)["refused"] == apis.BODY_OK
    if needed:
        short = dict(list(enough.items())[:-1])
        assert read(path, **short) == {"api": apis.find(path.encode()), "refused": apis.BODY_LACKS, "field": needed[-1]}
    assert prompt.read(path.encode(), b"[]")["refused"] == apis.BODY_NOT_OBJECT
    assert prompt.read(path.encode(), b"{")["refused"] == apis.BODY_NOT_JSON


@pytest.mark.parametrize("name", ["", None, 7, ["m"]])
def test_a_model_that_need_not_be_is_taken_as_none(name: object) -> None:
    assert read("/v1/embeddings", model=name, input="x")["model"] == b""
    assert read("/v1/completions", model=name, prompt="x")["field"] == "model"
    assert read("/generate", model="m", text="x")["model"] == b""


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/v1/responses", {"model": "m", "input": "x", "max_output_tokens": 5, "max_tokens": 6}, 5),
        ("/v1/messages", {"model": "m", "messages": [1], "max_tokens": 5}, 5),
        ("/generate", {"text": "x", "sampling_params": {"max_new_tokens": 5}}, 5),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 5}}, 5),
        ("/generate", {"text": "x", "sampling_params": [{"max_new_tokens": 5}]}, -1),
        ("/generate", {"text": "x", "sampling_params": 5}, -1),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 5}}, 5),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": None}}, -1),
        ("/v1/audio/speech", {"input": "x", "max_tokens": 5}, -1),
        ("/v1/embeddings", {"input": "x", "max_tokens": 5}, 0),
        ("/v1/messages/count_tokens", {"model": "m", "messages": [1], "max_tokens": 5}, 0),
    ],
)
def test_what_bounds_the_answer(path: str, body: dict[str, Any], limit: int) -> None:
    assert read(path, **body)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/render", {"model": "m", "messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions/render", {"model": "m", "prompt": LONG}),
        ("/v1/messages/count_tokens", {"model": "m", "messages": [{"role": "user", "content": LONG}]}),
        ("/v1/conversations", {"items": [{"role": "user", "content": LONG}]}),
        ("/tokenize", {"prompt": LONG}),
        ("/detokenize", {"tokens": IDS}),
    ],
)
def test_what_no_model_runs_over_is_not_hashed(path: str, body: dict[str, Any]) -> None:
    found = read(path, **body)
    assert (found["tokens"], found["hashes"]) == (0, [])
    assert found["model"] == body.get("model", "").encode()


# --- conversations ---


def test_messages_of_anthropic() -> None:
    said = [{"role": "user", "content": "x"}]
    by_text = hashes("/v1/messages", model="m", system=LONG, messages=said)
    by_blocks = hashes("/v1/messages", model="m", system=[{"type": "text", "text": LONG}], messages=said)
    assert common(by_text, by_blocks) == 0  # parts are parts
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    assert common(hashes("/v1/messages", model="m", system=LONG, messages=said, tools=tools), by_text) == 0
    assert common(hashes("/v1/messages", model="m", system=OTHER, messages=said), by_text) == 0
    assert common(hashes("/v1/messages", model="m", messages=[{"role": "user", "content": LONG}]), by_text) == 0


def test_a_system_prompt_is_the_same_wherever_it_stands() -> None:
    by_member = hashes("/v1/messages", model="m", system=LONG, messages=[{"role": "user", "content": "x"}])
    by_message = hashes("/v1/chat/completions", model="m", messages=[{"role": "system", "content": LONG}])
    assert common(by_member, by_message) == len(by_message)


def block(**members: Any) -> list[Any]:
    return [{"role": "user", "content": [members, {"type": "text", "text": LONG}]}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "thinking", "thinking": "a"}, {"type": "thinking", "thinking": "b"}),
        ({"type": "tool_use", "name": "f", "input": {"x": 1}}, {"type": "tool_use", "name": "f", "input": {"x": 2}}),
        ({"type": "tool_result", "content": "a"}, {"type": "tool_result", "content": "b"}),
        (
            {"type": "tool_result", "tool_use_id": "1", "content": ""},
            {"type": "tool_result", "tool_use_id": "2", "content": ""},
        ),
        ({"type": "tool_result", "content": [{"text": "a"}]}, {"type": "tool_result", "content": [{"text": "b"}]}),
        ({"type": "image", "source": {"data": "a"}}, {"type": "image", "source": {"data": "b"}}),
    ],
)
def test_parts_are_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    found = [hashes("/v1/messages", model="m", messages=block(**part)) for part in (one, other)]
    assert common(*found) < len(found[0])
    for cached, part in zip(found, (one, other), strict=True):
        marked = block(**part, cache_control={"type": "ephemeral"})
        assert hashes("/v1/messages", model="m", messages=marked) == cached


def test_parts_are_as_long_as_they_are_but_for_media() -> None:
    def tokens(**part: Any) -> int:
        found: int = read("/v1/messages", model="m", messages=block(**part))["tokens"]
        return found - read("/v1/messages", model="m", messages=block(text=""))["tokens"]

    assert tokens(type="image", source={"data": LONG * 9}) == 256
    assert tokens(type="tool_use", input={"text": LONG}) in range(len(LONG) // 4, len(LONG) // 4 + 20)
    assert tokens(type="tool_result", content=LONG) in range(len(LONG) // 4, len(LONG) // 4 + 20)
    assert tokens(type="tool_result", content=[{"type": "image", "source": {"data": LONG}}]) in range(256, 276)


def test_items_of_responses() -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}]
    first = hashes("/v1/responses", model="m", input=items)
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": LONG}
    second = hashes("/v1/responses", model="m", input=[*items, call, result])
    assert common(first, second) == len(first) < len(second)
    as_text = hashes("/v1/responses", model="m", input=LONG)
    assert as_text == hashes("/v1/responses", model="m", input=[{"role": "user", "content": LONG}])


def test_what_stands_before_the_input_of_a_response() -> None:
    bare = hashes("/v1/responses", model="m", input=LONG)
    for before in (
        {"instructions": OTHER},
        {"tools": [{"type": "function", "name": "f"}]},
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1"}},
    ):
        assert common(hashes("/v1/responses", model="m", input=LONG, **before), bare) == 0
    one, other = (
        hashes("/v1/responses", model="m", instructions=OTHER, previous_response_id=name, input=LONG)
        for name in ("resp_1", "resp_2")
    )
    assert 0 < common(one, other) < len(one)
    assert read("/v1/responses", model="m", prompt={"id": "pmpt_1"})["refused"] == apis.BODY_OK


# --- prompts, documents, media ---


def test_texts_and_ids_in_lists() -> None:
    for path, name in (("/v1/embeddings", "input"), ("/v1/moderations", "input"), ("/v1/audio/speech", "input")):
        assert hashes(path, **{name: LONG}) == hashes(path, **{name: [LONG]})
        assert common(hashes(path, **{name: [LONG, OTHER]}), hashes(path, **{name: LONG})) >= 6
    assert read("/v1/embeddings", input=IDS)["tokens"] == read("/v1/embeddings", input=[IDS])["tokens"] == 1000
    assert read("/v1/embeddings", input=[IDS, IDS])["tokens"] == 2001


def test_the_query_comes_before_the_documents() -> None:
    path = "/v1/rerank"
    one, other = (hashes(path, query=LONG, documents=[OTHER + end]) for end in "ab")
    assert common(one, other) == len(one)
    assert common(one, hashes(path, query="x" + LONG, documents=[OTHER])) == 0
    parts = [{"text": OTHER}, {"type": "image_url", "image_url": {"url": LONG}}]
    found = read(path, query={"content": parts}, documents=[{"content": parts}, {"text": "x"}])
    assert found["tokens"] in range(2 * (len(OTHER) // 4 + 256), 2 * (len(OTHER) // 4 + 256) + 20)


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")])
def test_score_by_any_name(names: tuple[str, str]) -> None:
    found = hashes("/v1/score", **dict(zip(names, ([LONG], [OTHER]), strict=True)))
    assert found == hashes("/score", queries=[LONG], documents=[OTHER])


def test_token_ids_have_one_chain_by_any_api() -> None:
    found = hashes("/inference/v1/generate", token_ids=IDS)
    assert found == hashes("/generate", input_ids=IDS) == hashes("/generate", input_ids=[IDS])
    named = hashes("/inference/v1/generate", model="m", token_ids=IDS)
    assert named == hashes("/v1/completions", model="m", prompt=IDS)
    assert not set(named) & set(found)


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        ("/generate", "extra_key", {"text": LONG}),
        ("/generate", "lora_path", {"text": LONG}),
        ("/inference/v1/generate", "cache_salt", {"token_ids": IDS}),
        ("/v1/embeddings", "cache_salt", {"input": LONG}),
        ("/v1/responses", "cache_salt", {"model": "m", "input": LONG}),
    ],
)
def test_salts(path: str, name: str, body: dict[str, Any]) -> None:
    found = [hashes(path, **body, **{name: salt}) for salt in (None, "", "a", "b")]
    assert found[0] == hashes(path, **body)
    assert len({one[0] for one in found}) == 4


def test_salts_go_by_their_names() -> None:
    assert hashes("/generate", text=LONG, extra_key="a") != hashes("/generate", text=LONG, lora_path="a")


def test_media_beside_a_text() -> None:
    plain, one = (read("/generate", text=LONG, image_data=image) for image in (None, "a"))
    assert one["tokens"] - plain["tokens"] in (256, 257)
    assert common(plain["hashes"], one["hashes"]) == 0
    two = read("/generate", text=LONG, image_data=["a", {"url": LONG}])
    assert two["tokens"] - plain["tokens"] in (512, 513)
    assert hashes("/generate", text=LONG, image_data="b") != one["hashes"]
    embedded = read("/generate", input_embeds=[[0.25] * 100] * 3)
    assert embedded["tokens"] in range(300, 310)


def features(**offsets: list[int]) -> dict[str, Any]:
    return {
        "mm_hashes": {kind: [f"{kind} at {offset}" for offset in at] for kind, at in offsets.items()},
        "mm_placeholders": {kind: [{"offset": offset, "length": 9} for offset in at] for kind, at in offsets.items()},
    }


def test_features_count_from_where_they_stand() -> None:
    path = "/inference/v1/generate"
    plain = hashes(path, token_ids=IDS)
    one = hashes(path, token_ids=IDS, features=features(image=[300]))
    assert common(plain, one) == 4
    two = hashes(path, token_ids=IDS, features=features(image=[300], audio=[700]))
    assert common(one, two) in (10, 11)
    assert two == hashes(path, token_ids=IDS, features=features(audio=[700], image=[300]))
    late = read(path, token_ids=IDS, features=features(image=[5000]))
    assert (late["tokens"], common(plain, late["hashes"])) == (1002, 15)


@pytest.mark.parametrize(
    "odd",
    [
        {"mm_hashes": {"image": ["x"]}},
        {"mm_hashes": {"image": "x", "audio": 7, "video": {"a": "b"}}, "mm_placeholders": {"image": [1, 2]}},
        {"mm_hashes": {"image": ["x", None, "z"]}, "mm_placeholders": {"image": [{"offset": -1}, {}, 7]}},
        {"mm_hashes": ["x"], "mm_placeholders": 7},
        {"mm_hashes": {str(number): ["x"] for number in range(20)}},
        {"mm_hashes": [1, 2]},
        7,
    ],
)
def test_odd_features_equal_the_model(odd: Any) -> None:
    assert read("/inference/v1/generate", token_ids=IDS, features=odd)["refused"] == apis.BODY_OK


# --- against the model ---

NAMES = sorted({field["name"] for row in JSON_APIS for field in row["fields"]})
PART = st.dictionaries(
    st.sampled_from(["type", "text", "thinking", "content", "input", "cache_control", "source"]), VALUE, max_size=4
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": st.lists(PART, max_size=3)}), max_size=3)
CONTENT = VALUE | MESSAGES | st.lists(PART, max_size=2) | st.lists(st.integers(0, 99), max_size=80) | st.just(LONG)
OFFSETS = st.lists(st.integers(0, 90), max_size=3)
FEATURES = st.builds(features, image=OFFSETS, audio=OFFSETS) | VALUE


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A path, and a body that has most of what is needed there."""
    row = draw(st.sampled_from(JSON_APIS))
    body: dict[str, Any] = {}
    for field in draw(st.permutations(row["fields"])):
        if draw(st.integers(0, 3)) or field["need"]:
            made = FEATURES if field["role"] == "places" else TEXT if field["role"] == "model" else CONTENT
            body[field["name"]] = draw(made)
    body.update(draw(st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=1)))
    return row["suffix"].encode(), body


@settings(max_examples=400)
@given(bodies(), STYLE, st.sampled_from([1, 65536]))
def test_every_api_equals_the_model(sent: tuple[bytes, dict[str, Any]], style: dict[str, Any], blocks: int) -> None:
    path, body = sent
    text = dumps(body, style)
    assert prompt.read(path, text, 7, blocks=blocks) == model.read(path, text, 7, blocks)
