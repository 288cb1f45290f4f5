from typing import Any

def read(body: bytes, seed: int = 0, *, blocks: int = 65536) -> dict[str, Any] | None:
    """What picker reads of the body of a Generate or Embed call, for tests and tools; None if it cannot be read.

    Keys: max_tokens (-1 = not said), tokens (estimate) and hashes (of at most `blocks` blocks).
    """
