"""Slow model of `picker._core.inbox`: keeps every byte, and takes messages apart from the beginning."""

PREFIX = 5


class Inbox:
    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.bytes = b""

    @property
    def is_empty(self) -> bool:
        return not self.bytes

    def feed(self, data: bytes) -> tuple[list[bytes], type[Exception] | None]:
        """The messages that are whole now, and what is raised instead of going on."""
        self.bytes += data
        found: list[bytes] = []
        while len(self.bytes) >= PREFIX:
            size = int.from_bytes(self.bytes[1:PREFIX], "big")
            if self.bytes[0] != 0:
                return found, ValueError
            if size > self.largest:
                return found, OverflowError
            if len(self.bytes) < PREFIX + size:
                break
            found.append(self.bytes[PREFIX : PREFIX + size])
            self.bytes = self.bytes[PREFIX + size :]
        return found, None
