"""Families of samples as lines of text, in the two formats Prometheus reads.

A page of 200 models has 50,000 lines and is asked for every few seconds. So labels are put together once a row, and a
bucket is one string operation. Says what `prometheus_client` would say.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import ClassVar

from prometheus_client.utils import floatToGoString

__all__ = ["Counters", "Family", "Gauges", "Histogram", "Histograms"]

Histogram = tuple[Sequence[tuple[float, int]], float]
"""(bound, observations not above it), ..., and the sum of all; the last bound is infinity."""


def _escaped(value: str) -> str:
    """A label's value as it stands between quotes."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _number(value: float) -> str:
    """As the reference picker's library writes it: `1.0`, `1.048576e+06`, `+Inf`."""
    value = float(value)
    return repr(value) if -1e6 < value < 1e6 else str(floatToGoString(value))  # type: ignore[no-untyped-call]


_bound = lru_cache(maxsize=1024)(_number)


class Family:
    """Samples of one name. `labels`: the names that go with the values of each row."""

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._about = about
        self._order = sorted((label, place) for place, label in enumerate(labels))
        self._rows: list[list[str]] = []

    def head(self, *, openmetrics: bool) -> list[str]:
        """The lines before the samples; only plain text has a counter's suffix there."""
        name = self.name if openmetrics else self.name + self.suffix
        return [f"# HELP {name} {self._about}\n", f"# TYPE {name} {self.kind}\n"]

    def rows(self) -> Iterator[list[str]]:
        """The lines of the samples, row by row."""
        return iter(self._rows)

    def _labels(self, values: Sequence[str]) -> list[str]:
        """Each as `name="value"`, in the order of names."""
        return [f'{label}="{_escaped(values[place])}"' for label, place in self._order]

    def add(self, values: Sequence[str], value: float) -> None:
        """A row of one sample."""
        labels = self._labels(values)
        where = f"{{{','.join(labels)}}}" if labels else ""
        self._rows.append([f"{self.name}{self.suffix}{where} {_number(value)}\n"])


class Gauges(Family):
    """What goes up and down."""

    kind = "gauge"


class Counters(Family):
    """What only grows; named without `_total`."""

    kind = "counter"
    suffix = "_total"


class Histograms(Family):
    """Rows of buckets with their count and sum, made into lines as they are asked for."""

    kind = "histogram"

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, about, labels)
        self._kept: list[tuple[list[str], Histogram]] = []

    def observe(self, values: Sequence[str], histogram: Histogram) -> None:
        """A row of one histogram."""
        self._kept.append((self._labels(values), histogram))

    def rows(self) -> Iterator[list[str]]:
        for labels, (buckets, total) in self._kept:
            before = "".join(f"{label}," for label in labels if label < "le")
            after = "".join(f",{label}" for label in labels if label > "le")
            head, tail = f'{self.name}_bucket{{{before}le="', f'"{after}}} '
            lines = [f"{head}{_bound(bound)}{tail}{count}.0\n" for bound, count in buckets]
            where = f"{{{','.join(labels)}}}" if labels else ""
            lines.append(f"{self.name}_count{where} {_number(buckets[-1][1])}\n")
            lines.append(f"{self.name}_sum{where} {_number(total)}\n")
            yield lines
