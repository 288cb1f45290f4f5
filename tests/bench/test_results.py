"""What is written is what is read; what no table could show is refused."""

import json
from pathlib import Path

import pytest

from benchmarks.results import Row, figure, goal, names, placed, rows, write

ROW = Row("radix", "match of 512 blocks", "picker", 0.46, "µs", "make bench", low=0.44, high=0.5, target="<= 1")


def test_written_rows_are_read(tmp_path: Path) -> None:
    bare = Row("radix", "memory", "", 21.0, "B/pair", "make bench")
    write("core", [ROW, bare], tmp_path)
    first, second = rows("core", tmp_path)
    assert (first.value, first.low, first.high, first.target, first.who) == (0.46, 0.44, 0.5, "<= 1", "picker")
    assert first.commit and first.machine
    assert (second.low, second.target, second.who, second.met) == (None, "", "", None)
    assert names(tmp_path) == ["core"]


def test_results_not_there_yet_are_no_rows(tmp_path: Path) -> None:
    assert rows("peers", tmp_path) == []


def test_a_target_is_judged_in_its_direction() -> None:
    assert ROW.met is True
    assert Row("g", "w", "", 19.0, "×", "c", target=">= 20").met is False
    assert Row("g", "w", "", 20.0, "×", "c", target=">= 20").met is True


def test_how_a_row_is_shown() -> None:
    assert (figure(ROW), goal(ROW)) == ("0.46 µs (0.44-0.5)", "≤ 1: met")
    assert goal(Row("g", "w", "", 19.0, "×", "c", target=">= 20")) == "≥ 20: **missed**"
    assert figure(Row("g", "w", "", 2900.0, "req/s", "c")) == "2,900 req/s"


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no target"):
        Row("g", "w", "", 1.0, "", "c", target="5")
    with pytest.raises(ValueError, match="without a row"):
        write("empty", [], tmp_path)
    (tmp_path / "odd.json").write_text(json.dumps({"rows": [{"group": "g", "colour": 1}]}))
    with pytest.raises(ValueError, match=r"odd\.json: a row has no field 'colour'"):
        rows("odd", tmp_path)
    (tmp_path / "odd.json").write_text(json.dumps({"rows": [{"group": "g"}]}))
    with pytest.raises(ValueError, match=r"odd\.json: .*missing"):
        rows("odd", tmp_path)


def test_a_table_is_placed_where_a_page_wants_it() -> None:
    page = "a\n<!-- live: begin -->\nold\n<!-- live: end -->\nb"
    assert placed(page, "live", "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="lacks"):
        placed("no place", "live", "new")
