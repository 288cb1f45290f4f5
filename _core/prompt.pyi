from typing import Any

def read(
    path: bytes, body: bytes, seed: int = 0, *, blocks: int = 65536, values: int = 1048576, depth: int = 256
) -> dict[str, Any]:
    """What picker reads of a JSON body sent to `path`, for tests and tools.

    Keys: api (see `apis.find`), refused (one of `apis`'s BODY_*), field (what the body lacks, ""); of a body that is
    not refused and whose API is read also model (UTF-8, b"" = none), stream, max_tokens (-1 = not said), tokens
    (estimate) and hashes (of at most `blocks` blocks). `values` and `depth` limit the JSON; ValueError for a depth of
    more than 1024.
    """
