"""The figures, the table and the plot."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from picker.demo.load import Outcome
from picker.demo.plot import draw
from picker.demo.report import Half, quantile, table
from picker.demo.stage import Counters


def shown(before: Half, after: Half) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(table(before, after))
    return console.export_text()


def half(title: str, ttft_s: list[float], hits: int, cpu_s: float | None = None, failures: int = 0) -> Half:
    outcome = Outcome(ttft_s=ttft_s, tokens=500, took_s=10.0, errors=1)
    work = (Counters(1000, hits, 1000, 100, 0), Counters(1000, 2 * hits, 1000, 100, 0))
    return Half(title, outcome, work, 0.25, cpu_s, failures)


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert quantile([], 0.5) == 0.0


def test_figures() -> None:
    it = half("picker", [0.1, 0.2], hits=200, failures=2)
    assert it.hit_rate == pytest.approx(0.3)
    assert it.balance == pytest.approx(900 / 800), "work is what was not cached, and output"
    assert it.tokens_per_s == 50.0
    assert it.errors == 3
    assert Counters(5, 4, 3, 2, 1).since(Counters(4, 3, 2, 1, 9)) == Counters(1, 1, 1, 1, 1)


def test_the_table_has_every_figure() -> None:
    text = shown(half("round robin", [0.2, 0.4], hits=100), half("picker", [0.1, 0.1], hits=400, cpu_s=0.02))
    for row in (
        ("time to first token, p50", "200 ms", "100 ms", "-50 %"),
        ("output tokens per second", "50", "50", "+0 %"),
        ("prefix-cache hit rate", "15.0 %", "60.0 %"),
        ("balance of work", "1.05", "1.40"),
        ("requests", "2", "2"),
        ("errors", "1", "1"),
        ("CPU per request", "-", "10.0 ms"),
    ):
        (line,) = (line for line in text.splitlines() if row[0] in line)
        assert [cell for cell in row if cell not in line] == []


def test_a_half_without_answers_is_still_shown(tmp_path: Path) -> None:
    assert "0 ms" in shown(half("round robin", [], hits=0), half("picker", [], hits=0, cpu_s=1.0))
    draw([half("round robin", [], 0), half("picker", [], 0)], "nothing", tmp_path / "empty.png")


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "demo.png"
    draw([half("round robin", [0.2, 0.4, 2.0], 100), half("picker", [0.1, 0.1], 400)], "two servers", path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    assert (width, height) == (1650, 720)
