"""Prints every stated target beside what was measured. The verdicts are for people: figures here gate nothing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Figure:
    """`limit`: None for a figure that is only told."""

    what: str
    measured: float
    limit: float | None
    unit: str
    higher_is_better: bool

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.measured >= self.limit if self.higher_is_better else self.measured <= self.limit


FIGURES: list[Figure] = []
Target = Callable[..., None]


@pytest.fixture
def target() -> Target:
    """`target(what, measured, limit, unit, higher_is_better=False)` adds a row to the closing table."""

    def add(what: str, measured: float, limit: float | None, unit: str, *, higher_is_better: bool = False) -> None:
        FIGURES.append(Figure(what, measured, limit, unit, higher_is_better))

    return add


@pytest.fixture
def seconds(benchmark: Any) -> Callable[[Callable[[], object]], float]:
    """Best seconds of one call, by pytest-benchmark: the minimum is the least noisy of its figures."""

    def run(action: Callable[[], object]) -> float:
        benchmark(action)
        return float(benchmark.stats.stats.min)

    return run


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keeps every figure that was told beside the times, for `benchmarks.report`, and not each of a million times."""
    for one in output_json["benchmarks"]:
        one["stats"].pop("data", None)
    output_json["figures"] = [asdict(figure) for figure in FIGURES]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not FIGURES:
        return
    terminalreporter.section("targets (best of many, this machine)")
    for figure in FIGURES:
        sign = ">=" if figure.higher_is_better else "<="
        verdict = "" if figure.limit is None else f"target {sign} {figure.limit:g}  {'met' if figure.met else 'MISSED'}"
        terminalreporter.write_line(f"{figure.what:<66} {figure.measured:>10.3f} {figure.unit:<6} {verdict}".rstrip())
