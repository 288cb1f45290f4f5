"""The picker command: dispatch, exit codes, and what is imported for what."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from picker import __version__
from picker.cli.main import COMMANDS, main
from picker.errors import ConfigError, CoreUnavailable, PickerError, UsageError


def install(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """A stand-in for the demo subcommand."""
    module = types.ModuleType("picker.cli.demo", "A stand-in.")
    module.configure = lambda parser: parser.flag("duration", default="60s")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picker.cli.demo", module)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"picker {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: picker COMMAND [FLAGS]")
    assert all(f"\n  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "picker: error: a command is needed\n"), (["serv"], "picker: error: unknown command 'serv'\n")],
)
def test_no_such_command(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_subcommand_gets_its_flags_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda args: len(args.duration))
    assert main(["demo", "--duration", "1234567"]) == 7


def test_help_of_a_subcommand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch, lambda args: 1)
    assert main(["demo", "--help"]) == 0
    assert "A stand-in." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (ConfigError("no", source="f", line=3), 2),
        (CoreUnavailable("no"), 1),
        (PickerError("no"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> int:
        raise error

    install(monkeypatch, run)
    assert main(["demo"]) == code


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


@pytest.mark.parametrize("words", [["--help"], ["sim", "--list-policies"]])
def test_a_reader_that_has_gone_is_no_bug(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        command = [sys.executable, "-m", "picker", *words]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def imported_by(words: list[str]) -> set[str]:
    """The modules a fresh interpreter has loaded after the command."""
    code = f"import sys, picker.cli.main as m; m.main({words!r}); print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_checking_a_file_imports_no_server(tmp_path: Path) -> None:
    file = tmp_path / "epp.yaml"
    file.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n")
    loaded = imported_by(["config", "check", str(file)])
    assert "picker.config.load" in loaded
    assert not loaded & {"grpc", "aiohttp", "uvloop", "picker._core.alloc", "picker.app", "picker.cli.serve"}


def test_the_version_needs_nothing() -> None:
    assert not imported_by(["--version"]) & {"msgspec", "yaml", "grpc", "picker.config"}


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "picker", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"picker {__version__}\n"
