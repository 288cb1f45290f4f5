"""Slow model of `picker._core.stats`: every observation kept in a list, by model name, priority and flow."""

from collections.abc import Sequence

OTHER = "other"
LONGEST = 256


DEFAULT_FLOW = "default-flow"

Key = tuple[str, str, str]
"""Name, priority and flow, as they are shown."""


class Stats:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.durations: dict[Key, list[float]] = {}
        self.kept: set[str] = set()
        self.names: set[str] = set()
        self.banded: set[Key] = set()
        self.flows: set[Key] = set()

    def name(self, model: bytes, *, is_served: bool = True) -> str:
        """What the series of a model is called; of one rewritten to another by both names, a zero between."""
        try:
            name = model.decode()
        except UnicodeDecodeError:  # surrogates
            return OTHER
        if name in ("", OTHER) or name in self.kept | self.names:
            return name
        if not is_served:
            return OTHER
        halves = name.split("\0")
        if len(halves) == 2 and self.kept.issuperset(halves):
            self.kept.add(name)
            return name
        if max(map(len, model.split(b"\0"))) > LONGEST or len(self.names) >= self.limit:
            return OTHER
        self.names.add(name)
        return name

    def key(self, name: str, priority: int, flow: str, *, is_served: bool) -> Key:
        """The series of a model's requests: its own, without room that of other flows, without room that of others."""
        flow = flow or DEFAULT_FLOW
        key = name, str(priority), flow
        if (flow == DEFAULT_FLOW and priority == 0) or key in self.banded | self.flows:
            return key
        if flow != DEFAULT_FLOW:
            if is_served and len(self.flows) < self.limit:
                self.flows.add(key)
                return key
            key = name, str(priority), OTHER
        if key not in self.banded | self.flows and len(self.banded) >= self.limit:
            return OTHER, OTHER, OTHER
        if key not in self.flows:
            self.banded.add(key)
        return key

    @staticmethod
    def joined(model: str, target: str) -> str:
        return model if target == model else f"{model}\0{target}"

    def keep(self, model: bytes) -> None:
        try:
            name = model.decode()
        except UnicodeDecodeError:
            return
        if name not in ("", OTHER) and name not in self.names and len(model) <= LONGEST:
            self.kept.add(name)

    def count(self, model: bytes, duration_s: float, priority: int, flow: str, *, is_served: bool) -> None:
        key = self.key(self.name(model, is_served=is_served), priority, flow, is_served=is_served)
        self.durations.setdefault(key, []).append(duration_s)


def buckets(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    """How many values are not above each bound."""
    return [sum(value <= bound for value in values) for bound in bounds]
