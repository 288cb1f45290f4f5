"""Families of samples as lines of text, in the two formats Prometheus reads.

A page of 200 models has 50,000 lines and is asked for every few seconds. So labels are put together once a row, and a
bucket is one string operation. Says what `prometheus_client` would say.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

from prometheus_client.utils import floatToGoString

__all__ = ["AnyFamily", "Counters", "Family", "Gauges", "Histogram", "Histograms"]

V = TypeVar("V")
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


class Family(Generic[V]):
    """Samples of one name, made into lines as they are asked for. `labels`: the names that go with each row's values.

    `is_shared`: of the whole process, however many pools it serves.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""

    def __init__(self, name: str, about: str, labels: Sequence[str] = (), *, is_shared: bool = False) -> None:
        self.name = name
        self.is_shared = is_shared
        self._about = about
        self._names = tuple(labels)
        self._order = sorted((label, place) for place, label in enumerate(labels))
        self._kept: list[tuple[Sequence[str], V]] = []

    def head(self, *, openmetrics: bool) -> list[str]:
        """The lines before the samples; only plain text has a counter's suffix there."""
        name = self.name if openmetrics else self.name + self.suffix
        return [f"# HELP {name} {self._about}\n", f"# TYPE {name} {self.kind}\n"]

    def rows(self) -> Iterator[list[str]]:
        """The lines of the samples, row by row."""
        for values, value in self._kept:
            yield self._lines([f'{label}="{_escaped(values[place])}"' for label, place in self._order], value)

    def _lines(self, labels: Sequence[str], value: V) -> list[str]:
        """A row's, whose labels are each as `name="value"`, in the order of names."""
        raise NotImplementedError

    def joined(self, others: Sequence[tuple[str, "Family[V]"]], label: str) -> "Family[V]":
        """The rows of all these families of this name, each with the text before it in `label`.

        Families with a label `name` or `inference_pool` say in it which pool they are of.
        """
        has_name = not {"name", "inference_pool"}.isdisjoint(self._names)
        whole = type(self)(self.name, self._about, self._names if has_name else (*self._names, label))
        for text, other in others:
            more = () if has_name else (text,)
            whole._kept += [((*values, *more), value) for values, value in other._kept]
        return whole


class _Numbers(Family[float]):
    """Rows of one sample."""

    def add(self, values: Sequence[str], value: float) -> None:
        """A row."""
        self._kept.append((values, value))

    def _lines(self, labels: Sequence[str], value: float) -> list[str]:
        where = f"{{{','.join(labels)}}}" if labels else ""
        return [f"{self.name}{self.suffix}{where} {_number(value)}\n"]


class Gauges(_Numbers):
    """What goes up and down."""

    kind = "gauge"


class Counters(_Numbers):
    """What only grows; named without `_total`."""

    kind = "counter"
    suffix = "_total"


class Histograms(Family[Histogram]):
    """Rows of buckets with their count and sum."""

    kind = "histogram"

    def observe(self, values: Sequence[str], histogram: Histogram) -> None:
        """A row of one histogram."""
        self._kept.append((values, histogram))

    def _lines(self, labels: Sequence[str], value: Histogram) -> list[str]:
        buckets, total = value
        before = "".join(f"{label}," for label in labels if label < "le")
        after = "".join(f",{label}" for label in labels if label > "le")
        head, tail = f'{self.name}_bucket{{{before}le="', f'"{after}}} '
        lines = [f"{head}{_bound(bound)}{tail}{count}.0\n" for bound, count in buckets]
        where = f"{{{','.join(labels)}}}" if labels else ""
        lines.append(f"{self.name}_count{where} {_number(buckets[-1][1])}\n")
        lines.append(f"{self.name}_sum{where} {_number(total)}\n")
        return lines


AnyFamily = Family[Any]
