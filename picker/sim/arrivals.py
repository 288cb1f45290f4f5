"""When requests come: at the times of a load, or as soon as a client of a fixed number of them is free.

Either way a request that comes `after` another one waits for it, and then for its time to think; however the other
one ended, for people go on.
"""

from collections import defaultdict
from collections.abc import Iterator

from picker.sim.asked import Asked, Load

Coming = Iterator[tuple[float, Asked]]


class Arrivals:
    """`clients`: 0 for an open loop. In a closed one each client holds one conversation, or one request, at a time.

    Raises ValueError for a load whose requests wait for one that does not come before them.
    """

    def __init__(self, load: Load, clients: int = 0) -> None:
        self.clients = clients
        self.followers: defaultdict[int, list[Asked]] = defaultdict(list)
        self.roots: dict[int, int] = {}  # of each request, the first of its conversation
        self.left: defaultdict[int, int] = defaultdict(int)  # of each conversation
        starts = []
        for place, one in enumerate(load.asked):
            if one.index != place or one.after >= place:
                raise ValueError(f"request {one.index} at place {place} comes after request {one.after}")
            if one.after >= 0:
                self.followers[one.after].append(one)
            else:
                starts.append(one)
            self.roots[place] = self.roots.get(one.after, place)
            self.left[self.roots[place]] += 1
        self.starts = iter(starts)

    def first(self) -> Coming:
        """Those that wait for nobody, with their times."""
        if not self.clients:
            yield from ((one.at_s, one) for one in self.starts)
        for _, one in zip(range(self.clients), self.starts, strict=False):
            yield 0.0, one

    def then(self, ended: Asked, now_s: float) -> Coming:
        """Those that come because this one has ended."""
        for one in self.followers.get(ended.index, ()):
            yield max(now_s + one.think_s, 0.0 if self.clients else one.at_s), one
        root = self.roots[ended.index]
        self.left[root] -= 1
        if self.clients and not self.left[root]:
            for _, one in zip(range(1), self.starts, strict=False):
                yield now_s, one
