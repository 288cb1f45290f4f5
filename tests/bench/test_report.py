"""The history of benchmarks, and the tables that are made of published results."""

import json
from pathlib import Path

import pytest

from benchmarks import report, results, tables
from benchmarks.results import Row


def kept(folder: Path, commit: str, at: str, **least: float) -> None:
    figure = {"what": "radix: match", "measured": 0.4, "limit": 1.0, "unit": "us", "higher_is_better": False}
    told = {
        "datetime": at,
        "figures": [figure],
        "benchmarks": [{"name": f"test_case[{name}: x]", "stats": {"min": one}} for name, one in least.items()],
    }
    (folder / f"{commit}.json").write_text(json.dumps(told))


def test_history_is_told_relative_to_what_a_case_was_first(tmp_path: Path) -> None:
    kept(tmp_path, "bbb", "2026-01-02T00:00:00+00:00", radix=3.0, scan=5.0)
    kept(tmp_path, "aaa", "2026-01-01T00:00:00+00:00", radix=2.0)
    history = report.timed(tmp_path)
    assert [one.commit for one in history] == ["aaa", "bbb"]
    assert report.by_module(history) == {"radix": [1.0, pytest.approx(1.5)], "scan": [None, 1.0]}
    assert "| radix | 1.000 | 1.500 |" in report.history_table(history)
    assert "| scan |  | 1.000 |" in report.history_table(history)


def test_other_tests_are_of_no_module() -> None:
    assert report.module_of("test_case[radix: match]") == report.module_of("radix: match") == "radix"
    assert report.module_of("test_match_of_one_block_runs[512]") == ""


def test_a_report_is_written(tmp_path: Path) -> None:
    kept(tmp_path, "aaa", "2026-01-01T00:00:00+00:00", radix=2.0)
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "aaa.json").write_text(json.dumps({"commit": "aaa", "at": 1.0, "cases": {"radix: x": 100}}))
    assert report.main(["--folder", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"report.md", "history.png", "table.png"}
    text = (tmp_path / "report.md").read_text()
    assert "| radix: match |  | 0.4 µs |  | ≤ 1: met |" in text


def test_nothing_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--folder", str(tmp_path)]) == 1
    assert "make bench" in capsys.readouterr().err


def published(monkeypatch: pytest.MonkeyPatch, *rows: Row) -> None:
    monkeypatch.setattr(tables, "rows", lambda name: list(rows) if name == "load" else [])


def test_a_line_holds_the_figures_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    line = tables.Line("load", "speed", "{a|rate (at * req/s)|x} and {a|rest|}")
    known = [
        Row("a", "rate (at 300 req/s)", "x", 5.0, "µs", "make it", 4.0, 6.0),
        Row("a", "rest", "", 1.0, "", "make it"),
    ]
    assert tables._told(line, known) == "| speed | 5 µs (4-6) and 1 | `make it` |"
    with pytest.raises(LookupError, match=r"load\.json has no a \| rest"):
        tables._told(line, known[:1])
    assert tables._told(line, []) == ""


def test_what_has_no_results_yet_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch)
    assert tables.performance_table().count("\n") == 2


def test_all_lines_find_what_they_name_in_what_is_published() -> None:
    sources = set(results.names())
    lines = [line for line in tables.LINES if line.source in sources]
    assert tables.performance_table().count("\n") == len(lines) + 2
