from typing_extensions import Buffer

def xxh64(data: Buffer, seed: int = 0) -> int:
    """XXH64 of `data` as an unsigned 64-bit integer."""

def block_hashes(spans: list[Buffer], root: int, limit: int = 1048576) -> list[int]:
    """Chained hashes of the whole 256-byte blocks of the concatenated `spans` (a list of bytes-like objects).

    The first block's seed is `root`; at most `limit` hashes are returned. Raises TypeError for other spans.
    """
