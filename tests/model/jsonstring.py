"""Slow model of `picker._core.jsonstring`: what the `json` module writes and reads."""

import json


def quote(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def unescape(token: bytes) -> bytes:
    """ValueError if `token` is no JSON string."""
    if not token.startswith(b'"') or not token.endswith(b'"'):
        raise ValueError(token)
    text: str = json.loads(token)
    return text.encode("utf-8", "surrogatepass")
