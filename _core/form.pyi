from typing import Any

def read(body: bytes, boundary: bytes, seed: int = 0, *, blocks: int = 1024) -> dict[str, Any] | None:
    """What picker reads of a form, for tests and tools; None for what is no form with this boundary.

    Keys: model and prompt (b"" = none), files (how many), tokens (estimate) and hashes (of at most `blocks` blocks).
    """
