import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker._core import apis
from picker._core.engine import Engine
from tests.model import apis as model

TABLE = apis.table()


def suffix(path: bytes) -> str:
    return str(TABLE[apis.find(path)]["suffix"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/chat/completions", "/chat/completions"),
        (b"/llm/v1/chat/completions?x=/completions", "/chat/completions"),
        (b"/v1/chat/completions/", "/chat/completions"),
        (b"/v1/chat/completions#top", "/chat/completions"),
        (b"/v1/chat/completions#top?/completions", "/chat/completions"),
        (b"/v1/chat/completions/render", "/chat/completions/render"),
        (b"/v1/completions/render", "/completions/render"),
        (b"/v1/completions", "/completions"),
        (b"/completions", "/completions"),
        (b"/v2/rerank", "/rerank"),
        (b"/rerank", "/rerank"),
        (b"/generate", "/generate"),
        (b"/inference/v1/generate", "/inference/v1/generate"),
        (b"/v1/generate", "/generate"),
        (b"/anthropic/v1/messages?beta=true", "/v1/messages"),
        (b"/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        (b"/vllm.grpc.engine.VllmEngine/Generate", "/vllm.grpc.engine.VllmEngine/Generate"),
        (b"/vllm.grpc.engine.VllmEngine/Abort", ""),
        (b"/v1/threads/7/messages", ""),
        (b"/v1/responses/7/cancel", ""),
        (b"/v1/conversations/7/items", ""),
        (b"/v1/chat/completions//", ""),
        (b"/v1/xcompletions", ""),
        (b"/v1/models", ""),
        (b"/v1/models?/v1/completions", ""),
        (b"completions", ""),
        (b"/", ""),
        (b"", ""),
    ],
)
def test_the_api_is_the_end_of_the_path(path: bytes, expected: str) -> None:
    assert suffix(path) == expected
    assert apis.find(path) == model.find(path)


@given(st.lists(st.sampled_from([row["suffix"].encode() for row in TABLE] + [b"/", b"?", b"#", b"x"]), max_size=4))
def test_paths_equal_the_model(parts: list[bytes]) -> None:
    assert apis.find(b"".join(parts)) == model.find(b"".join(parts))


# --- what headers say ---

CHAT = apis.find(b"/chat/completions")
SOUND = apis.find(b"/audio/transcriptions")
GRPC = apis.find(b"/vllm.grpc.engine.VllmEngine/Embed")
FORM = b"multipart/form-data; boundary=xyz"


def chosen(path: bytes, **headers: bytes) -> int:
    return apis.choose([(b":path", path), *((key.replace("_", "-").encode(), headers[key]) for key in headers)])[0]


def test_other_paths_than_the_one_asked_for() -> None:
    assert chosen(b"/x", x_original_path=b"/v1/chat/completions") == CHAT
    assert chosen(b"/x", x_forwarded_path=b"/v1/chat/completions") == CHAT
    assert chosen(b"/x", x_forwarded_path=b"/v1/score", x_original_path=b"/v1/chat/completions") == CHAT
    assert chosen(b"/v1/chat/completions", x_original_path=b"/v1/score") == CHAT
    assert chosen(b"/x", x_original_path=b"/y") == apis.API_OTHER


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip", b"identityx"])
def test_what_is_encoded_is_not_read(encoding: bytes) -> None:
    assert chosen(b"/v1/chat/completions", content_encoding=encoding) == apis.API_OTHER
    assert chosen(b"/v1/chat/completions", content_encoding=b"Identity") == CHAT
    assert chosen(b"/v1/chat/completions", content_encoding=b"") == CHAT


def test_grpc_says_so() -> None:
    path = b"/vllm.grpc.engine.VllmEngine/Embed"
    assert chosen(path, content_type=b"application/grpc") == GRPC
    assert chosen(path, content_type=b"application/grpc+proto") == GRPC
    assert chosen(path, content_type=b"application/json") == apis.API_OTHER
    assert chosen(path) == apis.API_OTHER


def test_forms_may_be_json_but_nothing_else() -> None:
    path = b"/v1/audio/transcriptions"
    assert chosen(path, content_type=FORM) == SOUND
    assert chosen(path, content_type=b"application/json; charset=utf-8") == SOUND
    assert chosen(path, content_type=b"application/x-www-form-urlencoded") == apis.API_OTHER
    assert chosen(path) == apis.API_OTHER
    assert chosen(b"/v1/chat/completions", content_type=FORM) == CHAT  # is JSON whatever it says


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (FORM, b"xyz"),
        (b"Multipart/Form-Data;charset=x;  Boundary=a-b'c; x=y", b"a-b'c"),
        (b'multipart/form-data; boundary="a b;c"; x', b"a b;c"),
        (b"multipart/form-data; boundary=a b", b"a"),
        (b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70),
        (b"multipart/form-data; boundary=" + b"x" * 71, b""),
        (b"multipart/form-data; xboundary=a", b""),
        (b"multipart/form-data; boundary=", b""),
        (b"multipart/form-data", b""),
        (b"multipart/mixed; boundary=a", b""),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes) -> None:
    headers = [(b":path", b"/v1/audio/translations"), (b"content-type", content_type)]
    api, found = apis.choose(headers)
    assert found == boundary
    assert (api == apis.API_OTHER) == (boundary == b"")
    assert (api, found) == model.choose(headers)


HEADERS = st.fixed_dictionaries(
    {b":path": st.sampled_from([b"/v1/chat/completions", b"/audio/speech", b"/images/edits", b"/x"])},
    optional={
        b"content-type": st.sampled_from([FORM, b"application/json", b"application/grpc", b"text/plain"])
        | st.lists(st.sampled_from([FORM, b";", b" ", b'"', b"boundary=", b"a"]), max_size=6).map(b"".join),
        b"content-encoding": st.sampled_from([b"gzip", b"identity"]),
        b"x-original-path": st.sampled_from([b"/score", b"/y"]),
        b"x-forwarded-path": st.sampled_from([b"/vllm.grpc.engine.VllmEngine/Generate", b"/y"]),
        b"accept": st.just(b"x"),
    },
)


@given(HEADERS, st.lists(st.sampled_from(apis.FAMILIES)))
def test_choices_equal_the_model(headers: dict[bytes, bytes], families: list[str]) -> None:
    assert apis.choose(list(headers.items()), families) == model.choose(headers.items(), families)


def test_families_limit_what_is_read() -> None:
    headers = [(b":path", b"/v1/messages")]
    assert apis.choose(headers, ["openai", "anthropic"])[0] == apis.find(b"/v1/messages")
    assert apis.choose(headers, ["openai"])[0] == apis.API_OTHER
    with pytest.raises(ValueError, match="no API family 'soap'; there are openai, anthropic"):
        apis.choose([], ["soap"])
    with pytest.raises(ValueError, match="no API family"):
        Engine(hash_seed=1).set_policy([(32, 1.0, (), 0)], apis=["passthrough"])


# --- the table itself ---


def test_problems_name_their_fields() -> None:
    assert [apis.lacking(problem) for problem in (-1, 0, 3, 2**31 - 1)] == [""] * 4
    names = {apis.lacking(problem) for problem in range(apis.BODY_LACKS, apis.BODY_LACKS + 20 * len(TABLE))}
    assert names - {""} == {field["name"] for row in TABLE for field in row["fields"]}


@pytest.mark.parametrize("row", TABLE[1:], ids=lambda row: row["suffix"])
def test_rows_are_sound(row: dict[str, object]) -> None:
    assert [other["suffix"] for other in TABLE].count(row["suffix"]) == 1
    assert str(row["suffix"]).startswith("/") and row["family"] in apis.FAMILIES
    fields = row["fields"]
    assert isinstance(fields, list) and 0 < len(fields) <= 20
    names = [field["name"] for field in fields]
    assert len(set(names)) == len(names)
    assert ("model" in names) == (names[0] == "model")
    for field in fields:
        assert (field["group"] == 0) == (field["need"] == "" or field["role"] == "model")
