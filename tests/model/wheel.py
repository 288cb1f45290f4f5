"""Slow model of `picker._core.wheel`: a dict, searched from end to end."""

from picker._core.wheel import TICK_NS


def is_due(at_ns: int, now_ns: int) -> bool:
    """From the beginning of the first tick that does not begin before it."""
    return -(-max(at_ns, 0) // TICK_NS) <= now_ns // TICK_NS


class Wheel:
    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = max(now_ns, 0)
        self.times: dict[int, int] = {}

    def set(self, key: int, at_ns: int) -> None:
        self.times[key] = at_ns

    def drop(self, key: int) -> None:
        self.times.pop(key, None)

    def due(self, now_ns: int) -> list[tuple[int, int]]:
        """All that may be named. A clock that goes back stands still."""
        self.now_ns = max(self.now_ns, now_ns)
        return [(key, at_ns) for key, at_ns in self.times.items() if is_due(at_ns, self.now_ns)]

    def __len__(self) -> int:
        return len(self.times)
