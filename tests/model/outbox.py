"""What an outbox is: the bytes of gRPC messages that were not sent yet."""


class Outbox:
    def __init__(self) -> None:
        self.body = b""
        self._waiting = b""
        self._marked = 0

    def write(self, reply: bytes) -> None:
        self._waiting += b"\0" + len(reply).to_bytes(4, "big") + reply

    def own(self, body: bytes) -> None:
        self.body = body

    def lend(self, head: bytes, start: int, size: int, tail: bytes) -> None:
        self.write(head + self.body[start : start + size] + tail)

    def mark(self) -> None:
        self._marked = len(self._waiting)

    def rewind(self) -> None:
        self._waiting = self._waiting[: self._marked]

    def send(self, size: int) -> bytes:
        sent, self._waiting = self._waiting[:size], self._waiting[size:]
        return sent

    def __len__(self) -> int:
        return len(self._waiting)
