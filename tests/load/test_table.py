"""The table of the load tools, kept over runs and put into a page."""

from pathlib import Path

from benchmarks import results
from benchmarks.load import table
from benchmarks.load.row import Row

AROUND = {"commit": "abc", "cpus": 2, "kernel": "6.1", "python": "3.11"}


def test_groups_of_the_same_commit_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    table.save(path, [Row("a", "x", "µs", (1.0,)), Row("b", "y", "µs", (2.0,))], AROUND, {})
    told = table.save(path, [Row("b", "y", "µs", (3.0,))], AROUND, {})
    assert [(row["group"], row["median"]) for row in told] == [("a", 1.0), ("b", 3.0)]
    told = table.save(path, [Row("b", "y", "µs", (4.0,))], {**AROUND, "commit": "def"}, {})
    assert [(row["group"], row["median"]) for row in told] == [("b", 4.0)]


def test_what_is_published_tells_figures_and_targets(tmp_path: Path) -> None:
    rows = [
        Row("direct", "CPU", "µs", (1.0, 3.0, 2.0), 2.5, note="16 streams", variant="wire"),
        Row("bodies", "rate", "req/s", (1500.0,), 2000.0, at_least=True),
    ]
    table.publish([row.as_json() for row in rows], "load", tmp_path)
    direct, bodies = results.rows("load", tmp_path)
    assert (direct.what, direct.who, results.figure(direct)) == ("CPU (16 streams)", "wire", "2 µs (1-3)")
    assert (results.goal(direct), results.goal(bodies)) == ("≤ 2.5: met", "≥ 2,000: **missed**")
    assert bodies.low is None


def test_groups_that_were_not_measured_stay_published(tmp_path: Path) -> None:
    table.publish([Row("a", "x", "µs", (1.0,)).as_json(), Row("b", "y", "µs", (2.0,)).as_json()], "load", tmp_path)
    table.publish([Row("b", "y", "µs", (3.0,)).as_json()], "load", tmp_path)
    assert [(row.group, row.value) for row in results.rows("load", tmp_path)] == [("a", 1.0), ("b", 3.0)]
