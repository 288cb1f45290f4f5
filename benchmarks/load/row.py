"""A line of the closing table."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.load.options import Variant

TLS_TIMES = 2.0
"""How much TLS may make of a plaintext cost."""


@dataclass(frozen=True)
class Row:
    """One figure: taken once a round, told as its median and its spread.

    `limit`: what it must not exceed (or, `at_least`, not fall below); None for a figure that is only told.
    `variant`: of which picker ("wire TLS"); `note`: how it was taken, in a few words.
    """

    group: str
    what: str
    unit: str
    samples: tuple[float, ...]
    limit: float | None = None
    at_least: bool = False
    note: str = ""
    variant: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.group}: {self.what}: no samples")

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.limit is None:
            return None
        return self.median >= self.limit if self.at_least else self.median <= self.limit

    @property
    def target(self) -> str:
        return "" if self.limit is None else f"{'≥' if self.at_least else '≤'} {shown(self.limit)}"

    @property
    def verdict(self) -> str:
        return {None: "", True: "met", False: "MISSED"}[self.met]

    def as_json(self) -> dict[str, Any]:
        figures = {"median": self.median, "min": min(self.samples), "max": max(self.samples)}
        target = {"limit": self.limit, "at_least": self.at_least, "met": self.met}
        named = {"group": self.group, "what": self.what, "variant": self.variant, "unit": self.unit, "note": self.note}
        return {**named, **figures, "samples": list(self.samples), **target}


def shown(value: float) -> str:
    """Three digits that matter, more where the number has them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def ratio(what: str, above: Row, below: Row, limit: float | None = None) -> Row:
    """Round by round, one figure over the other."""
    samples = tuple(one / other for one, other in zip(above.samples, below.samples, strict=True))
    return Row(above.group, what, "×", samples, limit, variant=f"{above.variant} / {below.variant}")


def tls_ratios(what: str, rows: Mapping[Variant, Row]) -> list[Row]:
    """What TLS costs, for each shell that was measured both ways; the target is the wire's."""
    return [
        ratio(what, row, rows[plain], TLS_TIMES if variant.shell == "wire" else None)
        for variant, row in rows.items()
        if variant.tls and (plain := Variant(variant.shell)) in rows
    ]
