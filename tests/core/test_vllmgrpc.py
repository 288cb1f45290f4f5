import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import prompt, vllmgrpc
from tests.model import vllmgrpc as model
from tests.model.vllmgrpc import MESSAGES, Request, frame
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

IDS = list(range(100_000, 101_000))


def request(**fields: Any) -> bytes:
    return frame(Request(**fields).SerializeToString())


def tokenized(ids: list[int], **more: Any) -> bytes:
    return request(tokenized=[{"input_ids": ids}], **more)


def media(*offsets: int, pixels: bytes = b"") -> Any:
    """Images called by the offsets they stand at."""
    return MESSAGES["Media"](
        pixel_values=[pixels],
        mm_placeholders=[{"offset": offset, "length": 5} for offset in offsets],
        mm_hashes=[b"image at %d" % offset for offset in offsets],
    )


def read(body: bytes) -> dict[str, Any]:
    found = vllmgrpc.read(body)
    assert found is not None
    assert found == model.read(body)
    return found


def test_token_ids_and_limit() -> None:
    found = read(tokenized(IDS, sampling_params=[{"max_tokens": [77]}], stream=True, request_id="x"))
    assert (found["tokens"], found["max_tokens"], len(found["hashes"])) == (1000, 77, 15)
    assert read(request())["tokens"] == 0
    assert read(request(tokenized=[{"original_text": "for people"}]))["tokens"] == 0


def test_unpacked_ids_are_the_same_ids() -> None:
    inner = b"".join(b"\x10" + bytes((id & 127 | 128, id >> 7 & 127 | 128, id >> 14)) for id in IDS)
    unpacked = b"\x12" + bytes((len(inner) & 127 | 128, len(inner) >> 7)) + inner
    assert read(frame(unpacked)) == read(tokenized(IDS))


def test_a_text() -> None:
    found = read(request(text=[b"Why? " * 100], sampling_params=[{"max_tokens": [2**31]}]))
    assert (found["tokens"], found["max_tokens"]) == (125, -1)


def test_one_prompt_has_one_chain_by_any_api() -> None:
    by_http = json.dumps({"token_ids": IDS}).encode()
    assert prompt.read(b"/inference/v1/generate", by_http)["hashes"] == read(tokenized(IDS))["hashes"]
    features = {"mm_hashes": {"image": ["image at 300"]}, "mm_placeholders": {"image": [{"offset": 300, "length": 5}]}}
    by_http = json.dumps({"token_ids": IDS, "features": features}).encode()
    expected = read(tokenized(IDS, mm_inputs=[media(300)]))["hashes"]
    assert prompt.read(b"/inference/v1/generate", by_http)["hashes"] == expected


def test_images_count_from_where_they_stand() -> None:
    plain, one = read(tokenized(IDS))["hashes"], read(tokenized(IDS, mm_inputs=[media(300)]))["hashes"]
    assert one[:4] == plain[:4] and not set(one[4:]) & set(plain)
    two = read(tokenized(IDS, mm_inputs=[media(300, 700)]))["hashes"]
    assert two[:10] == one[:10] and not set(two[11:]) & set(one)
    assert read(tokenized(IDS, mm_inputs=[media(700)], extra_mm_inputs=[media(300)]))["hashes"] == two
    assert read(tokenized(IDS, mm_inputs=[media(300, pixels=b"x" * 10_000)]))["hashes"] == one


def test_media_to_be_fetched_count_as_any() -> None:
    found = read(tokenized(IDS, media_refs=[{"items": [b"a", b"b"]}]))
    assert found["tokens"] == 1000 + 2 * 256 + 1


@pytest.mark.parametrize(
    "body",
    [
        frame(b"", flags=1),
        b"\0\0\0\0",
        tokenized(IDS)[:-1],
        tokenized(IDS) + b"\0",
        frame(b"\x12"),
        frame(b"\x12\x02\x12\x05"),
        frame(b"\x12\x03\x12\x01\x80"),
        frame(b"\x22\x01\x40"),
        frame(b"\x3a\x03\x2a\x01\x08"),
        frame(b"\x52\x01\x0a"),
    ],
)
def test_what_cannot_be_read_is_not(body: bytes) -> None:
    assert vllmgrpc.read(body) is None
    assert model.read(body) is None


def test_several_messages_are_all_read() -> None:
    assert read(tokenized(IDS[:10]) + tokenized(IDS[10:]))["hashes"] == read(tokenized(IDS))["hashes"]
    assert read(b"")["tokens"] == 0


OFFSETS = st.lists(st.integers(0, 40) | st.just(2**63), max_size=4)
MEDIA = st.builds(lambda offsets, lacks: media(*offsets[lacks:]), OFFSETS, st.integers(0, 1))
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "request_id": st.text(max_size=3),
        "tokenized": st.lists(st.builds(lambda ids: {"input_ids": ids}, st.lists(st.integers(0, 2**32 - 1)))),
        "sampling_params": st.lists(st.builds(lambda most: {"max_tokens": most}, st.lists(st.integers(0, 2**33)))),
        "mm_inputs": st.lists(MEDIA, max_size=2),
        "media_refs": st.just([{"items": [b"x", b""]}]),
        "extra_mm_inputs": st.lists(MEDIA, max_size=2),
    },
) | st.builds(lambda text: {"text": [text]}, st.binary())


@settings(max_examples=200)
@given(st.lists(REQUESTS, max_size=2), st.integers(0, 2**64 - 1), st.sampled_from([1, 65536]))
def test_equals_the_model(requests: list[dict[str, Any]], seed: int, blocks: int) -> None:
    body = b"".join(request(**each) for each in requests)
    assert vllmgrpc.read(body, seed, blocks=blocks) == model.read(body, seed, blocks)


def test_more_media_than_are_told_apart_cost_little() -> None:
    body = tokenized(IDS, mm_inputs=[media(*range(900, 0, -1))])
    found = vllmgrpc.read(body)
    assert found is not None and found["tokens"] == 1000 + 64 * 2


def test_leaks_nothing() -> None:
    bodies = [tokenized(IDS, mm_inputs=[media(3)]), b"\0", frame(b"\x12")]
    assert_flat(lambda: [vllmgrpc.read(body) for body in bodies] and None, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: vllmgrpc.read(tokenized(IDS))) > 0
