"""Hashing as Python calls it: XXH64 against `xxhash`, token blocks against Dynamo's `compute_block_hash_for_seq`.

Comparable: XXH64 of the same bytes gives the same number. So does chaining 256-byte blocks, which `xxhash` has to do
block by block from Python. Not the same: Dynamo hashes blocks of 16 tokens (XXH3), picker of 64 tokens (XXH64, 256
bytes); both read every token once, and Dynamo takes no other form than a Python sequence.
"""

import random
from array import array

import xxhash
from dynamo._core import compute_block_hash_for_seq

from benchmarks.peers.pairs import calls, take
from benchmarks.peers.told import Case, rows
from benchmarks.results import Row
from picker._core import hashing

GROUP = "hashing"
SIZES = {"64 bytes": 64, "256 bytes": 256, "4 KB": 4096, "64 KB": 65_536, "400 KB": 400_000}
BLOCK = 256
TOKENS = 8192
SAME = ">= 0.97"
"""The same speed: the algorithm is the same, and A/A differs by about so much."""


def measure() -> list[Row]:
    """All cases."""
    dice = random.Random(1)
    made: list[Row] = []
    for said, size in SIZES.items():
        made += _digest(f"XXH64 of {said}", dice.randbytes(size))
    return [*made, *_chain(dice.randbytes(400_000)), *_tokens(dice)]


def _digest(what: str, data: bytes) -> list[Row]:
    assert hashing.xxh64(data, 7) == xxhash.xxh64_intdigest(data, 7)
    taken = take(
        {
            "picker": calls(lambda: hashing.xxh64(data, 7)),
            "xxhash": calls(lambda: xxhash.xxh64_intdigest(data, 7)),
        }
    )
    return rows(Case(GROUP, what), taken, {"picker": "", "xxhash": ""}, [("xxhash", "picker", SAME)])


def _chain(data: bytes) -> list[Row]:
    """Each block's seed is the hash before it."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data) - BLOCK + 1, BLOCK)]

    def peer() -> list[int]:
        last, made, digest = 7, [], xxhash.xxh64_intdigest
        for block in blocks:
            last = digest(block, last)
            made.append(last)
        return made

    assert hashing.block_hashes([data], 7) == peer()
    taken = take({"picker": calls(lambda: hashing.block_hashes([data], 7)), "xxhash": calls(peer)})
    notes = {"picker": "one call", "xxhash": "a call for each block, which are cut beforehand"}
    return rows(Case(GROUP, "400 KB in chained 256-byte blocks"), taken, notes, [("xxhash", "picker", ">= 1")])


def _tokens(dice: random.Random) -> list[Row]:
    tokens = [dice.randrange(128_000) for _ in range(TOKENS)]
    packed = array("I", tokens)
    from_list, peer = "picker, from a list", "Dynamo"
    taken = take(
        {
            "picker": calls(lambda: hashing.block_hashes([packed], 7)),
            from_list: calls(lambda: hashing.block_hashes([array("I", tokens)], 7)),
            peer: calls(lambda: compute_block_hash_for_seq(tokens, 16)),
        }
    )
    notes = {
        "picker": "blocks of 64, out of an array",
        from_list: "blocks of 64, the array made in each call: picker itself never has such a list",
        peer: "compute_block_hash_for_seq, blocks of 16, out of a list: it takes nothing else",
    }
    return rows(Case(GROUP, "8,192 token ids"), taken, notes, [(peer, "picker", ""), (peer, from_list, "")])
