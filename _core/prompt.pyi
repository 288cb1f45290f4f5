from typing import Any, Final

API_OTHER: Final[int]
API_CHAT: Final[int]
API_COMPLETIONS: Final[int]
BODY_OK: Final[int]
BODY_NOT_JSON: Final[int]
BODY_TOO_COMPLEX: Final[int]
BODY_NOT_OBJECT: Final[int]
BODY_NO_MODEL: Final[int]
BODY_NO_MESSAGES: Final[int]
BODY_NO_PROMPT: Final[int]

def read(
    path: bytes, body: bytes, seed: int = 0, *, blocks: int = 65536, values: int = 1048576, depth: int = 256
) -> dict[str, Any]:
    """What picker reads of a body sent to `path`, for tests and tools.

    Keys: api (API_*), refused (BODY_*); of a body that is not refused and whose API is read also model (UTF-8), stream,
    max_tokens (-1 = not said), tokens (estimate) and hashes (of at most `blocks` blocks). `values` and `depth` limit
    the JSON; ValueError for a depth of more than 1024.
    """
