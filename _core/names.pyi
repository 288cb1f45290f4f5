from typing import final

@final
class Names:
    """What `mapping` (bytes to bytes) says. TypeError for anything else in it; MemoryError."""

    def __new__(cls, mapping: dict[bytes, bytes]) -> Names: ...
    def find(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""

    def __len__(self) -> int: ...
    def _check(self) -> None: ...
