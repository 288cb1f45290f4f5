from collections.abc import Sequence
from typing import Any, Final

FAMILIES: Final[tuple[str, ...]]
"""Names of API families, as `Engine.set_policy(apis=...)` takes them."""

API_OTHER: Final[int]
BODY_OK: Final[int]
BODY_NOT_JSON: Final[int]
BODY_TOO_COMPLEX: Final[int]
BODY_NOT_OBJECT: Final[int]
BODY_LACKS: Final[int]

def find(path: bytes) -> int:
    """Index in `table()` of the API that a `:path` names; API_OTHER if picker knows none."""

def choose(headers: Sequence[tuple[bytes, bytes]], families: Sequence[str] = ...) -> tuple[int, bytes]:
    """The API as whose body is read what comes behind these headers (keys in lower case), and a form's boundary.

    API_OTHER: it is not read. ValueError for a family there is none of.
    """

def lacking(problem: int) -> str:
    """Name of the field that a body lacks which is refused for `problem`; "" if it is refused for something else."""

def table() -> list[dict[str, Any]]:
    """What picker knows of each API, the first of them being all others.

    Keys: suffix, family, format ("json", "form", "grpc"), work (of the model: "", "prompt", "answer"), usage, stream,
    and fields: dicts of name, inner, role, need and group.
    """
