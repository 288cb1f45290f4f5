"""Slow model of `picker._core.deadlines`: a dict, searched from end to end."""


class Deadlines:
    def __init__(self) -> None:
        self.times: dict[int, int] = {}

    def set(self, key: int, at_ns: int) -> None:
        self.times[key] = at_ns

    def drop(self, key: int) -> None:
        self.times.pop(key, None)

    def due(self, now_ns: int) -> list[tuple[int, int]]:
        """All that may be named first: those that are due by now and have waited longest."""
        first = min(self.times.values(), default=now_ns + 1)
        return [(key, at_ns) for key, at_ns in self.times.items() if at_ns == first <= now_ns]

    def __len__(self) -> int:
        return len(self.times)
