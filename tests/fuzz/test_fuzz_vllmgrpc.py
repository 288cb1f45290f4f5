"""Mutated gRPC bodies, against protobuf's own parser."""

from picker._core import vllmgrpc
from tests.core.test_vllmgrpc import IDS, media, request, tokenized
from tests.model import vllmgrpc as model
from tests.support.fuzz import CASES, mutants

SEED = 20_261_123
BODIES = [
    tokenized(IDS[:90], sampling_params=[{"max_tokens": [16], "n": 1}], mm_inputs=[media(3, 70)], request_id="r"),
    request(text=[b"Why?"], stream=True, media_refs=[{"items": [b"http://a", b""]}]),
    tokenized([1, 2**32 - 1], extra_mm_inputs=[media(0, pixels=b"\x0a\x12" * 20)]) + tokenized([]),
]
TOKENS = [
    *(bytes((byte,)) for byte in b"\x00\x01\x05\x08\x0a\x10\x12\x1a\x22\x2a\x32\x3a\x40\x52\x5a\x7f\x80\xff"),
    *(b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\0\0\0\0\x05", b"\0\0\0\0\0", b"\x3b"),
]


def test_mutated_bodies() -> None:
    """What is written as protobuf writes it is read as protobuf reads it; of all else only that nothing breaks."""
    read = plain = 0
    for number, body in mutants(BODIES, TOKENS, seed=SEED):
        found = vllmgrpc.read(body, number, blocks=8)
        assert found is None or 0 <= found["tokens"] <= 512
        read += found is not None
        if model.is_plain(body):
            plain += 1
            assert found == model.read(body, number, 8), f"body {number}: {body!r}"
    assert CASES // 50 < plain <= read < CASES, f"{plain} plain, {read} read of {CASES}"
