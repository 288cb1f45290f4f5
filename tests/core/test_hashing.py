from array import array
from collections.abc import Callable
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from picker._core import hashing
from tests.model import hashing as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SEEDS = st.integers(0, 2**64 - 1)


@given(st.binary(max_size=300), SEEDS)
def test_equals_the_reference_library(data: bytes, seed: int) -> None:
    assert hashing.xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed=seed)


@given(st.lists(st.binary(max_size=700), max_size=8), SEEDS, st.integers(0, 6))
def test_block_hashes_equal_the_model(spans: list[bytes], root: int, limit: int) -> None:
    assert hashing.block_hashes(spans, root) == model.block_hashes(spans, root)
    assert hashing.block_hashes(spans, root, limit) == model.block_hashes(spans, root, limit)


def test_where_spans_are_cut_does_not_matter() -> None:
    text = bytes(range(256)) * 5
    whole = hashing.block_hashes([text], 7)
    assert all(hashing.block_hashes([text[:cut], text[cut:]], 7) == whole for cut in range(len(text)))


def test_a_trailing_partial_block_is_not_hashed() -> None:
    assert hashing.block_hashes([b"x" * 511], 0) == hashing.block_hashes([b"x" * 256], 0)
    assert hashing.block_hashes([b"x" * 255], 0) == []


def test_equal_blocks_at_other_depths_differ() -> None:
    assert len(set(hashing.block_hashes([b"x" * 256 * 50], 0))) == 50


def test_refuses_what_is_not_contiguous_bytes() -> None:
    with pytest.raises((BufferError, ValueError)):
        hashing.xxh64(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        hashing.block_hashes(["text"], 0)  # type: ignore[list-item]
    with pytest.raises(OverflowError):
        hashing.xxh64(b"", -1)


def test_leaks_nothing() -> None:
    spans = [b"a" * 300, b"b" * 900]
    assert_flat(lambda: hashing.block_hashes(spans, 1))


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: hashing.block_hashes([b"x" * 600], 0)) == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array("B", data)])
def test_takes_any_bytes_and_gives_them_back(kind: Callable[[bytes], Any]) -> None:
    data = kind(bytes(range(256)) * 2)
    assert hashing.xxh64(data, 3) == xxhash.xxh64_intdigest(bytes(data), seed=3)
    assert hashing.block_hashes([data], 3) == model.block_hashes([bytes(data)], 3)
    if isinstance(data, bytearray):
        data.append(0)  # BufferError if anybody still had it
