"""`picker config check`."""

import io
import sys
from pathlib import Path

import pytest

from picker.cli.main import main
from tests.support.config_samples import FOLDER, HEAD, SAMPLES


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_good_files(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{path}: valid\nprofile ")
    assert printed.err == ""


def test_the_plan_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "check", str(FOLDER / "legacy-gie.yaml")])
    out = capsys.readouterr().out
    assert "    2 × prefix-cache-scorer  matchLengthWeight=0 matchLengthScaleTokens=8192 hashBlockSize=64" in out
    assert "\nwarnings (3)\n" in out


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HEAD.encode())))
    assert main(["config", "check", "-"]) == 0
    assert capsys.readouterr().out.startswith("standard input: valid\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD.encode() + b"plugins: [{type: x}]\n", 'epp.yaml:3: plugins[0].type: unknown plugin type "x"'),
        (b"\xff", "epp.yaml:1: is not UTF-8 text"),
        (b"", "epp.yaml: is empty"),
        (b"#" * (1 << 21), "epp.yaml: is larger than 1024 KiB"),
        (None, "epp.yaml: cannot be read: No such file or directory"),
    ],
)
def test_bad_files(content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "epp.yaml"
    if content is not None:
        file.write_bytes(content)
    assert main(["config", "check", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"picker: error: {tmp_path}/{message}")


@pytest.mark.parametrize("words", [[], ["check"], ["chekc", "f"], ["check", "a", "b"]])
def test_wrong_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *words]) == 2
    assert capsys.readouterr().err.startswith("picker: error: picker config: ")
