"""The table of the load tools, kept over runs and put into a page."""

from pathlib import Path

import pytest

from benchmarks.load import table
from benchmarks.load.row import Row

AROUND = {"commit": "abc", "cpus": 2, "kernel": "6.1", "python": "3.11"}
PAGE = f"before\n{table.BEGIN}old\n{table.END}\nafter\n"


def test_groups_of_the_same_commit_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    table.save(path, [Row("a", "x", "µs", (1.0,)), Row("b", "y", "µs", (2.0,))], AROUND, {})
    told = table.save(path, [Row("b", "y", "µs", (3.0,))], AROUND, {})
    assert [(row["group"], row["median"]) for row in told] == [("a", 1.0), ("b", 3.0)]
    told = table.save(path, [Row("b", "y", "µs", (4.0,))], {**AROUND, "commit": "def"}, {})
    assert [(row["group"], row["median"]) for row in told] == [("b", 4.0)]


def test_the_page_tells_figures_targets_and_misses() -> None:
    rows = [
        Row("direct", "CPU", "µs", (1.0, 3.0, 2.0), 2.5, note="16 streams", variant="wire"),
        Row("bodies", "rate", "req/s", (1500.0,), 2000.0, at_least=True),
    ]
    page = table.document(PAGE, [row.as_json() for row in rows], AROUND)
    assert page.startswith("before\n") and page.endswith(f"{table.END}\nafter\n") and "old" not in page
    assert "| direct: CPU (16 streams) | wire | 2 µs | 1 - 3 | ≤ 2.50: met |" in page.replace("2.5:", "2.50:")
    assert "| bodies: rate |  | 1,500 req/s |  | ≥ 2,000: **missed** |" in page
    assert table.document(page, [row.as_json() for row in rows], AROUND) == page


def test_a_page_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks"):
        table.document("no place", [], AROUND)
