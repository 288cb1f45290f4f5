"""Runs the native tools of this directory and reads what they print."""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.load.options import BUILD, ROOT
from benchmarks.load.processes import listening
from picker.demo.processes import Child

Report = dict[str, Any]
SLACK_S = 120.0


def build() -> None:
    """Compiles what is out of date. RuntimeError with the compiler's words if it cannot."""
    ended = subprocess.run(["make", "-s", "load-tools"], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the load tools do not compile:\n{ended.stderr}")


def command(tool: str, **options: object) -> list[str]:
    """`streams=3` becomes `--streams 3`, `tls=True` becomes `--tls`; what is None or False is left out."""
    words = [str(BUILD / tool)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


class Client:
    """A load client that runs beside what its caller does; `report` waits for its end."""

    def __init__(self, tool: str, **options: object) -> None:
        self._tool = tool
        self._process = subprocess.Popen(command(tool, **options), stdout=subprocess.PIPE, text=True)

    def event(self) -> Report:
        """The next line it prints before its report, such as that all streams are held."""
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        """Ask it to start nothing more."""
        self._process.terminate()

    def kill(self) -> None:
        """Make an end of it. Harmless when it has ended."""
        self._process.kill()
        self._process.communicate()

    def report(self, limit_s: float = SLACK_S) -> Report:
        """What it measured, once it has ended. RuntimeError if it failed."""
        out, _ = self._process.communicate(timeout=limit_s)
        if self._process.returncode:
            raise RuntimeError(f"{self._tool} ended with {self._process.returncode}")
        return dict(json.loads(out.splitlines()[-1]))


def run(tool: str, **options: object) -> Report:
    """Runs a load client to its end."""
    return Client(tool, **options).report()


def errors(report: Report) -> int:
    """How many streams or requests went wrong, by whatever cause."""
    return int(sum(report["errors"].values()))


class Upstream:
    """Model servers that cost next to nothing: one process, many ports."""

    def __init__(self, ports: int, log: Path, **options: object) -> None:
        self.child = Child("upstream", command("upstream", ports=ports, **options), log)
        self.addresses: list[str] = []

    def wait_ready(self) -> None:
        self.addresses = listening(self.child)
