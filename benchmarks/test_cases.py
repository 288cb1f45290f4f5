"""Every case under pytest-benchmark: what it takes here, beside its target. What gates is `make bench-gate`."""

from typing import Any

import pytest

from benchmarks.cases import read
from benchmarks.cases.case import Case
from benchmarks.conftest import Target

CASES, GROWTHS, FAILED = read()
OF_GROWTHS = {case.name for growth in GROWTHS for case in growth.cases}


def test_all_cases_could_be_read() -> None:
    assert FAILED == {}


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in OF_GROWTHS], ids=lambda case: case.name)
def test_case(case: Case, benchmark: Any, target: Target) -> None:
    """The least of many is the least noisy of the figures."""
    action = case.make()
    benchmark(action)
    figure = case.figure(float(benchmark.stats.stats.min))
    target(case.name, figure, case.limit, case.unit, higher_is_better=case.higher_is_better)
