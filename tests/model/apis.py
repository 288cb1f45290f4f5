"""Slow model of `picker._core.apis`: suffixes and headers by the book; the table itself is data, and the core's."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from picker._core import apis

OTHER = 0
OK, NOT_JSON, TOO_COMPLEX, NOT_OBJECT, LACKS = range(5)
TABLE: list[dict[str, Any]] = apis.table()


def find(path: bytes) -> int:
    path = re.split(rb"[?#]", path)[0]
    path = path[:-1] if len(path) > 1 and path.endswith(b"/") else path
    suits = [row for row in TABLE[1:] if path.endswith(row["suffix"].encode())]
    return TABLE.index(max(suits, key=lambda row: len(row["suffix"]))) if suits else OTHER


BOUNDARY = re.compile(rb';[; \t]*boundary=(?:"([^"]*)|([^; \t]*))', re.IGNORECASE)


def boundary(content_type: bytes) -> bytes:
    found = BOUNDARY.search(content_type)
    value = (found[1] or found[2] or b"") if found else b""
    return value if len(value) <= 70 else b""


def choose(headers: Iterable[tuple[bytes, bytes]], families: Sequence[str] = apis.FAMILIES) -> tuple[int, bytes]:
    said = dict(headers)
    by = [find(said.get(key, b"")) for key in (b":path", b"x-original-path", b"x-forwarded-path")]
    api = next((api for api in by if api != OTHER), OTHER)
    kind = said.get(b"content-type", b"").lower()
    limit = boundary(said.get(b"content-type", b"")) if kind.startswith(b"multipart/form-data") else b""
    is_read = TABLE[api]["family"] in families and said.get(b"content-encoding", b"").lower() in (b"", b"identity")
    if TABLE[api]["format"] == "grpc":
        is_read &= kind.startswith(b"application/grpc")
    if TABLE[api]["format"] == "form":
        is_read &= kind.startswith(b"application/json") or limit != b""
    return api if is_read else OTHER, limit
