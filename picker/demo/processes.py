"""Child processes that never outlive the demo, and what /proc says of them."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_S = 5.0
LOG_TAIL_CHARS = 2000
PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child before exec: the kernel kills it should the demo end without cleaning up."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One process with its output in a file. To be started from the main thread: it dies with the starting thread.

    It has a session of its own, so that Ctrl-C reaches the demo alone, which then ends its children in order.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` is added to this process's own."""
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        """Polls `condition`. Raises RuntimeError with the end of the log if the process ends, or the time does."""
        end_s = time.monotonic() + deadline_s
        while not condition():
            if not self.alive:
                raise RuntimeError(f"{self.name} ended with status {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > end_s:
                raise RuntimeError(f"{self.name} was not ready within {deadline_s:g} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_tail(self) -> str:
        return self.log_text()[-LOG_TAIL_CHARS:]

    def cpu_s(self) -> float:
        """CPU seconds it and its own children have used so far, all threads; 0.0 where there is no /proc."""
        try:
            return _cpu_s(self.pid) + sum(map(_cpu_s, _children(self.pid)))
        except OSError:
            return 0.0

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it is alive."""
        return self._process.poll()

    def terminate(self) -> None:
        """SIGTERM, without waiting. Harmless when it is gone."""
        if self.alive:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough. Harmless when it is gone."""
        self.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _cpu_s(pid: int) -> float:
    """User and system."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything; utime is field 14
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    lists = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(word) for text in lists for word in text.split()]


def stop_all(children: Sequence[Child]) -> None:
    """Ends all of them at once rather than one after another."""
    for child in children:
        child.terminate()
    for child in children:
        child.stop()


def picker_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "picker", *arguments]


def free_port() -> int:
    """A loopback port that is free now. Another process may take it first: only for those that cannot choose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def machine_busy() -> tuple[float, float]:
    """Busy and total CPU seconds of the whole machine since it started; zeros where there is no /proc."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / ticks, sum(fields) / ticks
