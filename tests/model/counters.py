"""Slow model of `picker._core.counters`: a dict, searched from end to end."""

SECOND_NS = 10**9
LENGTHS_NS = (SECOND_NS, 60 * SECOND_NS, 3600 * SECOND_NS, 86400 * SECOND_NS)


class Counters:
    """Without bounds: which counter makes room, of those whose windows have passed, is the core's own choice."""

    def __init__(self) -> None:
        self.used: dict[int, tuple[int, int, int]] = {}

    def add(self, id: int, amount: int, kind: int, wall_ns: int) -> int:
        window = wall_ns // LENGTHS_NS[kind]
        _, before, used = self.used.get(id, (kind, window, 0))
        if has_passed(kind, before, wall_ns):
            before, used = window, 0
        self.used[id] = (kind, before, used + amount)
        return used + amount


def has_passed(kind: int, window: int, wall_ns: int) -> bool:
    """A clock that is set back by less than a window is still in the one that had begun."""
    now = wall_ns // LENGTHS_NS[kind]
    return window not in (now, now + 1)
