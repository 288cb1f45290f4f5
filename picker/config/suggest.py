"""Words for people: the nearest valid name, and user text quoted so that it cannot spoil a message."""

import difflib
from collections.abc import Iterable

from picker.errors import printable

__all__ = ["nearest", "one_of", "quoted"]

_LONGEST = 60


def quoted(text: str) -> str:
    """`text` in double quotes, control characters escaped, cut to a readable length."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f'"{printable(cut)}"'


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name `word` was probably meant to be (a slip, or its beginning), ignoring case; or None."""
    folded = word[:_LONGEST].casefold()
    by_folded = {name.casefold(): name for name in names}
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if not found and len(folded) >= 3:
        found = [name for name in sorted(by_folded) if name.startswith(folded)]
    return by_folded[found[0]] if found else None


def one_of(word: str, names: Iterable[str]) -> str:
    """What to write instead of `word`: the nearest name, else all of them if they are few."""
    known = sorted(names)
    near = nearest(word, known)
    if near is not None:
        return f"did you mean {quoted(near)}?"
    if not known:
        return "remove it"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"use one of: {shown}"
