"""Lines out of pieces of a byte stream, at a cost that grows with the bytes and not with the pieces."""

__all__ = ["Lines"]


class Lines:
    """Takes pieces as they come and gives the lines they end, without their line feed; blank ones are passed over."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._begun = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in `piece`. Raises ValueError for one of more than `longest` bytes."""
        first, *others = piece.split(b"\n")
        self._begun += first
        if not others:
            self._check(self._begun)
            return []
        *whole, last = bytes(self._begun), *others
        self._begun = bytearray(last)
        for line in (*whole, last):
            self._check(line)
        return [line for line in whole if not line.isspace() and line]

    def _check(self, line: bytes | bytearray) -> None:
        if len(line) > self._longest:
            raise ValueError(f"an event of more than {self._longest} bytes")
