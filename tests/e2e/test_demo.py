"""`picker demo` as a user runs it, in small; and that it cleans up behind itself however it ends."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
DEADLINE_S = 90.0
MARK = "PICKER_TEST_MARK"


@contextmanager
def demo(directory: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running demo, and the mark that it and all of its children carry in their environment."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "picker", "demo", "--endpoints", "2", "--output", str(directory / "demo.png")]
    environment = {**os.environ, MARK: mark, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process, mark
        finally:
            process.kill()


def marked(mark: str) -> list[str]:
    """Command lines of the running processes that carry `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended meanwhile
            continue
    return found


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


def wait_until_none(mark: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while left := marked(mark):
        assert time.monotonic() < end_s, left
        os.sched_yield()


def test_ends_with_a_table_a_plot_and_nothing_running(tmp_path: Path, shell: str) -> None:
    with demo(tmp_path, f"--shell={shell}", "--duration", "4") as (process, mark):
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        assert marked(mark) == []
    assert "prefix-cache hit rate" in output
    assert "tenants" in output
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_stays_up_when_asked_to(tmp_path: Path, shell: str) -> None:
    with demo(tmp_path, f"--shell={shell}", "--duration", "2", "--keep") as (process, mark):
        wait_for(process, "curl -N http://127.0.0.1:")
        running = marked(mark)
        assert len(running) == 6, running  # the demo, two model servers, picker's two processes, Envoy
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        assert marked(mark) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(signum: signal.Signals, tmp_path: Path, shell: str) -> None:
    with demo(tmp_path, f"--shell={shell}", "--duration", "600") as (process, mark):
        wait_for(process, "tenants")
        assert len(marked(mark)) == 6
        process.send_signal(signum)
        assert process.wait(DEADLINE_S) == 130
        assert marked(mark) == []


def test_a_killed_demo_leaves_nothing(tmp_path: Path, shell: str) -> None:
    with demo(tmp_path, f"--shell={shell}", "--duration", "600") as (process, mark):
        wait_for(process, "tenants")
        process.kill()
        process.wait(DEADLINE_S)
        wait_until_none(mark)


@pytest.mark.parametrize("flags", [["--endpoints", "0"], ["--duration", "-1"]])
def test_settings_that_make_no_sense_are_usage_errors(flags: list[str], tmp_path: Path) -> None:
    with demo(tmp_path, *flags) as (process, _):
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
    assert "must be" in output
