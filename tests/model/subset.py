"""Slow model of `picker._core.subset`: the entries as a set of strings."""

MOST = 16_384


def entries(hint: str | list[object]) -> set[str]:
    texts = [hint] if isinstance(hint, str) else [item for item in hint if isinstance(item, str)]
    found: set[str] = set()
    for text in ",".join(texts).split(","):
        entry = text.strip(" \t")
        if len(entry) > 2 and entry[0] == "[" and entry[-1] == "]":
            entry = entry[1:-1]
        if entry and len(found) < MOST:
            found.add(entry)
    return found


def allows(hint: str | list[object] | None, target: str, address: str) -> bool:
    """None: there is no hint."""
    return hint is None or bool({target, address} & entries(hint))
