import os

from picker._core import hashing


def test_hash_throughput(seconds, target) -> None:
    body = os.urandom(400_000)
    took = seconds(lambda: hashing.block_hashes([body], 1))
    target("hashing: chained 256-byte blocks", len(body) / took / 1e9, 4.0, "GB/s", higher_is_better=True)
