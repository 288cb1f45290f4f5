"""Slow model of `picker._core.hashing`: the block chain by plain slicing over the reference XXH64."""

import xxhash

BLOCK_BYTES = 256


def block_hashes(spans: list[bytes], root: int, limit: int = 1 << 20) -> list[int]:
    text = b"".join(spans)
    hashes: list[int] = []
    for end in range(BLOCK_BYTES, len(text) + 1, BLOCK_BYTES):
        if len(hashes) == limit:
            break
        root = xxhash.xxh64_intdigest(text[end - BLOCK_BYTES : end], seed=root)
        hashes.append(root)
    return hashes
