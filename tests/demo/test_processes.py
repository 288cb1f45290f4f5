"""Children end when they are told to, and when their parent ends without telling them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from picker.demo.processes import Child, free_port, machine_busy, split_address, stop_all

DEADLINE_S = 60.0
FOREVER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()",
]


def gone(pid: int) -> bool:
    """Whether the process ended; one that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_waits_for_a_condition_and_stops(tmp_path: Path) -> None:
    child = Child("sleeper", FOREVER, tmp_path / "log")
    child.wait_until(lambda: "up" in child.log_text(), DEADLINE_S)
    assert child.alive
    child.stop()
    child.stop()
    assert not child.alive


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picker.demo.processes.STOP_S", 0.1)
    children = [Child("stubborn", STUBBORN, tmp_path / "log"), Child("sleeper", FOREVER, tmp_path / "log2")]
    for child in children:
        child.wait_until(lambda child=child: "up" in child.log_text(), DEADLINE_S)  # type: ignore[misc]
    stop_all(children)
    assert [child.alive for child in children] == [False, False]


def test_a_child_that_ends_early_says_why(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"broken ended with status 1:\nno such luck"):
        child.wait_until(lambda: False, DEADLINE_S)


def test_a_child_that_takes_too_long_says_so(tmp_path: Path) -> None:
    child = Child("slow", FOREVER, tmp_path / "log")
    try:
        with pytest.raises(RuntimeError, match="slow was not ready within 0 s"):
            child.wait_until(lambda: False, 0.0)
    finally:
        child.stop()


def test_counts_cpu_seconds(tmp_path: Path) -> None:
    busy = Child("busy", [sys.executable, "-c", "while True: pass"], tmp_path / "log")
    try:
        busy.wait_until(lambda: busy.cpu_s() > 0.05, DEADLINE_S)
    finally:
        busy.stop()
    assert busy.cpu_s() == 0.0, "it is gone"
    assert 0 < machine_busy()[0] < machine_busy()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills orphans on Linux only")
def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from picker.demo.processes import Child\n"
        f"child = Child('c', {FOREVER!r}, Path({str(tmp_path / 'log')!r}))\n"
        "child.wait_until(lambda: 'up' in child.log_text(), 20)\n"
        "print(child.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        os.kill(parent.pid, signal.SIGKILL)
    end_s = time.monotonic() + DEADLINE_S
    while not gone(pid):
        assert time.monotonic() < end_s
        os.sched_yield()


def test_addresses() -> None:
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:80") == ("::1", 80)
    assert 0 < free_port() < 65536
