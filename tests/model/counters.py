"""Slow model of `picker._core.counters`: a dict, searched from end to end."""

SECOND_NS = 10**9
LENGTHS_NS = (SECOND_NS, 60 * SECOND_NS, 3600 * SECOND_NS, 86400 * SECOND_NS)


class Counters:
    """Which counter makes room, of those whose windows have passed, is the core's own choice."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.used: dict[int, tuple[int, int, int]] = {}

    def has_room(self, wall_ns: int) -> bool:
        passed = any(window != wall_ns // LENGTHS_NS[kind] for kind, window, _ in self.used.values())
        return len(self.used) < self.room or passed

    def add(self, id: int, amount: int, kind: int, wall_ns: int) -> int:
        window = wall_ns // LENGTHS_NS[kind]
        _, before, used = self.used.get(id, (kind, window, 0))
        self.used[id] = (kind, window, (used if before == window else 0) + amount)
        return self.used[id][2]
