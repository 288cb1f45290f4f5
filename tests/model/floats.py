"""Slow model of `picker._core.floats`: `float` over what the grammar lets through."""

import re

NUMBER = re.compile(rb"[+-]?(?:nan|inf|infinity|([0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)", re.IGNORECASE)


def parse(text: bytes) -> float | None:
    found = NUMBER.fullmatch(text)
    if found is None or len(found[1] or b"") > 100:
        return None
    return float(text)
