"""Slow model of `picker._core.jsonnumber`: regular expressions and exact fractions."""

import re
from fractions import Fraction

NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
PLAIN = re.compile(rb"0|[1-9][0-9]*")


def whole(token: bytes) -> int | None:
    """The number `token` if it is whole and in 0..2**64-1; exponents must be small. ValueError if it is no number."""
    if not NUMBER.fullmatch(token):
        raise ValueError(token)
    value = Fraction(token.decode())
    return int(value) if value.denominator == 1 and 0 <= value < 2**64 else None


def integers(token: bytes) -> list[int] | None:
    """The items of an array of plain integers 0..2**32-1, else None."""
    if not (token.startswith(b"[") and token.endswith(b"]")):
        return None
    items = [item.strip(b" \t\r\n") for item in token[1:-1].split(b",")]
    if all(PLAIN.fullmatch(item) and int(item) < 2**32 for item in items):
        return [int(item) for item in items]
    return None
