"""A map of names is a dict."""

from collections.abc import Mapping


class Names:
    def __init__(self, mapping: Mapping[bytes, bytes]) -> None:
        self._mapping = dict(mapping)

    def find(self, key: bytes) -> bytes | None:
        return self._mapping.get(key)

    def __len__(self) -> int:
        return len(self._mapping)
