"""Slow model of `picker._core.stats`: every observation kept in a list, by model name."""

from collections.abc import Sequence

OTHER = "other"
LONGEST = 256


class Stats:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.durations: dict[str, list[float]] = {}
        self.kept: set[str] = set()

    def name(self, model: bytes) -> str:
        """What the series of a model is called; of one rewritten to another by both names, a zero between."""
        try:
            name = model.decode()
        except UnicodeDecodeError:  # surrogates
            return OTHER
        if name in self.kept:
            return name
        halves = name.split("\0")
        if len(halves) == 2 and self.kept.issuperset(halves):
            self.kept.add(name)
            return name
        own = [known for known in self.durations if known not in ("", OTHER) and known not in self.kept]
        if max(map(len, model.split(b"\0"))) > LONGEST or (name not in ("", OTHER, *own) and len(own) >= self.limit):
            return OTHER
        return name

    @staticmethod
    def joined(model: str, target: str) -> str:
        return model if target == model else f"{model}\0{target}"

    def keep(self, model: bytes) -> None:
        self.limit += 1
        name = self.name(model)
        self.limit -= 1
        if name not in ("", OTHER) and name not in self.durations:
            self.kept.add(name)

    def count(self, model: bytes, duration_s: float) -> None:
        self.durations.setdefault(self.name(model), []).append(duration_s)


def buckets(values: Sequence[float], bounds: Sequence[float]) -> list[int]:
    """How many values are not above each bound."""
    return [sum(value <= bound for value in values) for bound in bounds]
