import pytest

from picker._core import alloc, hashing
from tests.support.builds import debug_build_only


def test_outside_the_debug_build_nothing_can_be_made_to_fail() -> None:
    if alloc.is_debug_build():
        alloc.fail_allocation(-1)
    else:
        with pytest.raises(RuntimeError, match="PICKER_DEBUG=1"):
            alloc.fail_allocation(0)


@debug_build_only
def test_the_nth_allocation_fails_once() -> None:
    alloc.fail_allocation(1)
    assert hashing.block_hashes([b"x" * 256], 0)
    with pytest.raises(MemoryError):
        hashing.block_hashes([b"x" * 256], 0)
    assert hashing.block_hashes([b"x" * 256], 0)


@debug_build_only
def test_blocks_are_counted() -> None:
    before = alloc.live_blocks()
    hashing.block_hashes([b"x" * 256], 0)
    assert alloc.live_blocks() == before
