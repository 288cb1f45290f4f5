"""Slow model of `picker._core.queue`: a dict of requests, searched from end to end for whatever is asked."""

from dataclasses import dataclass

from picker._core.queue import EDF, FCFS, ROUND_ROBIN, STRICT, TOKENS
from tests.model.wheel import is_due

NEVER = 2**63 - 1
MOST_COST = 2**30
Rules = tuple[int, int, int, int, int]
Flow = tuple[int, int | None]
"""(priority, id), or None for those that share."""
PLAIN: Rules = (FCFS, TOKENS, 0, 0, 0)


@dataclass
class Item:
    priority: int
    flow: int | None
    group: int
    size: int
    cost: int
    slo_ns: int
    expires_ns: int
    enqueued_ns: int
    turn: int


class Queue:
    def __init__(self, max_requests: int, max_bytes: int, bands: int, flows: int, now_ns: int) -> None:
        self.max_requests, self.max_bytes, self.most_bands, self.most_flows = max_requests, max_bytes, bands, flows
        self.now_ns, self.turn = now_ns, 0
        self.own: dict[int, Rules] = {}
        self.default = self.negative = PLAIN
        self.items: dict[int, Item] = {}
        self.tags: dict[Flow, int] = {}
        self.idle: dict[Flow, int] = {}
        self.clocks: dict[int, int] = {}
        self.skipped: set[tuple[int, int | None, int]] = set()
        self.blocked: set[tuple[int, int]] = set()

    # --- who waits, and by what rules ---

    def rules(self, priority: int) -> Rules:
        return self.own.get(priority, self.default if priority >= 0 else self.negative)

    def of_band(self, priority: int) -> list[Item]:
        return [item for item in self.items.values() if item.priority == priority]

    def of_flow(self, flow: Flow) -> list[Item]:
        return [item for item in self.of_band(flow[0]) if item.flow == flow[1]]

    def priorities(self) -> list[int]:
        return sorted({*self.own, *(item.priority for item in self.items.values())}, reverse=True)

    def set_rules(self, own: dict[int, Rules], default: Rules, negative: Rules) -> None:
        before = {priority: self.rules(priority) for priority in self.priorities()}
        self.own, self.default, self.negative = own, default, negative
        for priority, old in before.items():
            if old[1] != self.rules(priority)[1]:
                self.clocks[priority] = 0
                for flow in [flow for flow in self.tags if flow[0] == priority]:
                    self.tags[flow] = 0
        self.tidy()

    def tidy(self) -> None:
        """What is known of flows that have gone, and of rounds, is forgotten."""
        for flow in list(self.tags):
            if not self.of_flow(flow) and self.tags[flow] <= self.clocks.get(flow[0], 0):
                self.forget(flow)
            elif not self.of_band(flow[0]):
                self.forget(flow)
        self.clocks = {priority: clock for priority, clock in self.clocks.items() if self.of_band(priority)}
        self.skipped &= {(item.priority, item.flow, item.group) for item in self.items.values()}
        self.blocked &= {(item.priority, item.group) for item in self.items.values()}

    def forget(self, flow: Flow) -> None:
        del self.tags[flow]
        self.idle.pop(flow, None)

    # --- coming ---

    def cap(self, priority: int, size: int) -> str | None:
        """The cap that stands against one more."""
        _, _, most, most_bytes, _ = self.rules(priority)
        band, every = self.of_band(priority), self.items.values()
        made = {item.priority for item in every} - set(self.own)
        broken = {
            "the band's requests": most and len(band) + 1 > most,
            "the band's bytes": most_bytes and sum(item.size for item in band) + size > most_bytes,
            "requests in all": self.max_requests and len(every) + 1 > self.max_requests,
            "bytes in all": self.max_bytes and sum(item.size for item in every) + size > self.max_bytes,
            "bands": priority not in made and priority not in self.own and len(made) >= self.most_bands,
        }
        return next((name for name, is_broken in broken.items() if is_broken), None)

    def told_apart(self) -> int:
        return sum(flow is not None for _, flow in self.tags)

    def place(self, priority: int, flow: int) -> int | None:
        """The flow, or None where it must share; idle ones make room, of the same band and then of the highest."""
        if (priority, flow) in self.tags:
            return flow
        for band in [priority, *self.priorities()]:
            idle = sorted((flow for flow in self.idle if flow[0] == band), key=lambda f: (self.tags[f], self.idle[f]))
            while idle and self.told_apart() >= self.most_flows:
                self.forget(idle.pop(0))
        return flow if self.told_apart() < self.most_flows else None

    def push(
        self,
        key: int,
        priority: int,
        flow: int,
        group: int,
        size: int,
        cost: int,
        slo_ns: int,
        expires_ns: int,
        now_ns: int,
    ) -> str | None:
        """The cap that stood against it, or None."""
        if (cap := self.cap(priority, size)) is not None:
            return cap
        self.now_ns = max(self.now_ns, now_ns)
        if expires_ns == NEVER and (ttl_ns := self.rules(priority)[4]):
            expires_ns = min(self.now_ns + ttl_ns, NEVER)
        placed = self.place(priority, flow)
        if not self.of_flow((priority, placed)):
            self.tags[priority, placed] = max(self.tags.get((priority, placed), 0), self.clocks.get(priority, 0))
            self.idle.pop((priority, placed), None)
        self.turn += 1
        self.items[key] = Item(priority, placed, group, size, cost, slo_ns, expires_ns, self.now_ns, self.turn)
        return None

    def holds_before(self, priority: int, group: int) -> bool:
        return any(item.priority >= priority and item.group == group for item in self.items.values())

    # --- rounds ---

    def begin(self) -> None:
        self.skipped, self.blocked = set(), set()

    def rank(self, item: Item) -> tuple[int, int, int, int]:
        order = self.rules(item.priority)[0]
        at = 0 if order == FCFS else item.expires_ns if order == EDF else item.slo_ns
        return -item.priority, self.tags[item.priority, item.flow], at, item.turn

    def peek(self) -> int | None:
        tried = {
            key: self.rank(item)
            for key, item in self.items.items()
            if (item.priority, item.flow, item.group) not in self.skipped
            and (item.priority, item.group) not in self.blocked
        }
        return min(tried, key=lambda key: tried[key], default=None)

    def skip(self, key: int) -> None:
        item = self.items[key]
        self.skipped.add((item.priority, item.flow, item.group))

    def block(self, key: int) -> None:
        item = self.items[key]
        self.blocked |= {
            (other.priority, other.group)
            for other in self.items.values()
            if other.priority <= item.priority and other.group == item.group
        }

    # --- going ---

    def take(self, key: int) -> None:
        item = self.items[key]
        flow = item.priority, item.flow
        fairness = self.rules(item.priority)[1]
        if fairness != STRICT:
            clock = max(self.clocks.get(item.priority, 0), self.tags[flow])
            self.clocks[item.priority] = clock
            self.tags[flow] = clock + (1 if fairness == ROUND_ROBIN else min(max(item.cost, 1), MOST_COST))
        self.remove(key)

    def remove(self, key: int) -> None:
        item = self.items.pop(key, None)
        if item is not None:
            if not self.of_flow((item.priority, item.flow)):
                self.idle[item.priority, item.flow] = item.turn
            self.tidy()

    def due(self, now_ns: int) -> set[int]:
        """All that may be named as expired."""
        self.now_ns = max(self.now_ns, now_ns)
        return {
            key for key, item in self.items.items() if item.expires_ns != NEVER and is_due(item.expires_ns, self.now_ns)
        }

    # --- counts ---

    def bands(self) -> list[tuple[int, bool, Rules, int, int, int, int | None]]:
        rows = []
        for priority in self.priorities():
            waiting = self.of_band(priority)
            oldest = min((item.enqueued_ns for item in waiting), default=None)
            flows = len({item.flow for item in waiting})
            size = sum(item.size for item in waiting)
            rows.append((priority, priority in self.own, self.rules(priority), len(waiting), size, flows, oldest))
        return rows

    def flows(self) -> set[tuple[int, int | None, int, int, int]]:
        rows = set()
        for priority, flow in self.tags:
            if waiting := self.of_flow((priority, flow)):
                size, oldest = sum(item.size for item in waiting), min(item.enqueued_ns for item in waiting)
                rows.add((priority, flow, len(waiting), size, oldest))
        return rows
