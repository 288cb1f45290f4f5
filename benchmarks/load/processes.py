"""The processes that are measured, and what /proc says of them."""

import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks.load.options import BUILD, FLOOR, ROOT, Variant
from picker.demo.processes import Child, free_port, machine_busy, picker_command, split_address

READY_S = 30.0
LISTENING = "listening on "
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """The process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # gone meanwhile
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of the process and of those below it, to the nanosecond."""
    total_ns = 0
    for member in family(pid):
        for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
            try:
                total_ns += int(task.read_text().split()[0])
            except OSError:
                continue
    return total_ns * 1e-9


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and of those below it."""
    pages = 0
    for member in family(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE_BYTES


class Server(ABC):
    """A server of ext_proc streams in a process of its own."""

    variant: Variant
    address: str
    child: Child

    @abstractmethod
    def wait_ready(self) -> None:
        """Until it serves. RuntimeError with the end of its log if it does not."""

    def cpu_s(self) -> float:
        return cpu_s(self.child.pid)

    def rss_bytes(self) -> int:
        return rss_bytes(self.child.pid)


class Picker(Server):
    """`picker serve` over a static endpoints file, or (None) over what the flags say."""

    def __init__(self, variant: Variant, endpoints: Path | None, *flags: str, log: Path | None = None) -> None:
        self.variant = variant
        ports = {flag: free_port() for flag in ("grpc-port", "grpc-health-port", "metrics-port")}
        self.address = f"127.0.0.1:{ports['grpc-port']}"
        self.admin = f"http://127.0.0.1:{ports['metrics-port']}"
        given = [f"--{flag}={port}" for flag, port in ports.items()]
        given += [f"--shell={variant.shell}", "--bind-address=127.0.0.1"]
        given += [f"--endpoints-file={endpoints}"] if endpoints else []
        given += [f"--secure-serving={str(variant.tls).lower()}"]
        given += [f"--cert-path={certificates()}"] if variant.tls else []
        log = log or BUILD / f"picker-{variant.shell}{'-tls' if variant.tls else ''}.log"
        self.child = Child(str(variant), picker_command("serve", *given, *flags), log, _here())

    def wait_ready(self) -> None:
        self.child.wait_until(self._ready, READY_S)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz") == "ready\n"
        except OSError:
            return False

    def get(self, path: str) -> str:
        """A page of its admin server."""
        with urllib.request.urlopen(f"{self.admin}{path}", timeout=10) as response:
            return str(response.read().decode())


class Floor(Server):
    """The wire connection object answering canned bytes: what the transport alone costs."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        command = [sys.executable, "-m", "benchmarks.load.floor", "--port", "0"]
        command += ["--cert-path", str(certificates())] if variant.tls else []
        self.child = Child("floor", command, BUILD / f"floor{'-tls' if variant.tls else ''}.log", _here())

    def wait_ready(self) -> None:
        self.address = listening(self.child)[0]


def start(variant: Variant, endpoints: Path, *flags: str) -> Server:
    """Started, perhaps not ready yet."""
    return Floor(variant) if variant.shell == FLOOR else Picker(variant, endpoints, *flags)


def listening(child: Child) -> list[str]:
    """The addresses that a server says it listens on, once it does."""

    def lines() -> list[str]:
        return [line for line in child.log_text().splitlines() if line.startswith(LISTENING)]

    child.wait_until(lambda: bool(lines()), READY_S)
    said = [line.removeprefix(LISTENING).strip() for line in lines()]
    return [where if ":" in where else f"127.0.0.1:{where}" for where in said]


def _here() -> dict[str, str]:
    """So that what is measured is this checkout, wherever the measuring was started."""
    return {"PYTHONPATH": str(ROOT)}


def certificates() -> Path:
    """A directory with a self-signed `tls.crt` and `tls.key`, made once."""
    directory = BUILD / "certificates"
    if not (directory / "tls.crt").exists():
        directory.mkdir(parents=True, exist_ok=True)
        key, certificate = str(directory / "tls.key"), str(directory / "tls.crt")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", key, "-out", certificate, "-days", "3650", "-subj", "/CN=picker"]
        subprocess.run([*command, "-addext", "subjectAltName=DNS:picker"], check=True, capture_output=True)
    return directory


def write_endpoints(path: Path, addresses: Sequence[str]) -> Path:
    """A static endpoints file."""
    entries = []
    for address in addresses:
        host, port = split_address(address)
        entries.append({"name": f"server-{port}", "address": host, "port": port})
    path.write_text(yaml.safe_dump({"endpoints": entries}))
    return path


def wait_end(child: Child, limit_s: float) -> float:
    """Seconds until the process has ended, at most `limit_s`. RuntimeError if it has not, or not with status 0."""
    begun_s = time.monotonic()
    while child.alive and time.monotonic() - begun_s < limit_s:
        time.sleep(0.02)
    if child.returncode != 0:
        raise RuntimeError(f"{child.name} ended with status {child.returncode} (None: not at all):\n{child.log_tail()}")
    return time.monotonic() - begun_s


class Others:
    """What share of the machine others have used since this was made: figures taken beside them are no good."""

    def __init__(self) -> None:
        self._begun = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        busy_s, total_s = machine_busy()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy_s, total_s, sum(usage.ru_utime + usage.ru_stime for usage in used)

    def share(self) -> float:
        """0 to 1, time stolen by a hypervisor included. To be asked when all children have ended."""
        busy_s, total_s, own_s = (now - then for now, then in zip(self._now(), self._begun, strict=True))
        return max(0.0, busy_s - own_s) / total_s if total_s > 0 else 0.0


class Watch:
    """Takes a figure again and again, from now on, beside what its maker does."""

    def __init__(self, figure: Callable[[], float], interval_s: float = 0.5) -> None:
        self._figure, self._interval_s = figure, interval_s
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._samples.append((time.monotonic(), self._figure()))
            if self._over.wait(self._interval_s):
                return

    def stop(self) -> list[tuple[float, float]]:
        """Pairs of a time (monotonic, seconds) and the figure then; at least one."""
        self._over.set()
        self._thread.join()
        return self._samples


def settle(seconds: float = 0.3) -> None:
    """Lets what the last measurement left behind (closing connections, garbage) pass before the next."""
    time.sleep(seconds)
