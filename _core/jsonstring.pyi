from typing_extensions import Buffer

def quote(text: str) -> bytes:
    """`text` as a JSON string in UTF-8, quotes included. Raises ValueError for lone surrogates."""

def unescape(token: Buffer) -> bytes:
    """What the JSON string `token` (quotes included) stands for, in UTF-8; a lone surrogate as its three-byte form.

    Raises ValueError if `token` is anything else than one JSON string.
    """
