"""Thousands of requests wait at once for a first endpoint: the cap holds, and all are answered; then again."""

import pytest

from benchmarks.load import queued, tools
from benchmarks.load.options import BUILD, Options
from tests.load.test_tools import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the load tools need {missing()} to be compiled")


def test_a_crowd_waits_and_is_answered() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    tools.build()
    rows = queued.rows(Options(rounds=2, quick=True))
    assert {row.what.partition(": ")[2]: row.met for row in rows if row.limit is not None} == {
        "429 at the cap, other than 20": True,
        "lost": True,
    }
    assert all(len(row.samples) == 2 for row in rows)
