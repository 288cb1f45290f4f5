"""A gateway under test: real model servers, a real picker and a real Envoy, each a process on loopback."""

import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config
from picker.demo.processes import Child, picker_command, split_address, stop_all
from tests.support.ports import EXT_PROC, HEALTH, METRICS, ports_in

READY_S = 30.0
LISTENING = "listening on "
NEWEST_ENVOY, OLD_ENVOYS = "1.40.0", ("1.36.4", "1.38.3")
OLD_ENVOY = OLD_ENVOYS[0]
SHELLS = ("wire", "grpcio")


def old_envoy(version: str = OLD_ENVOY) -> Path | None:
    """An Envoy of a series picker promises to work with, where `make test` has put it."""
    directory = Path(os.environ.get("PICKER_OLD_ENVOYS", sys.prefix))
    path = directory / f"envoy-{version}" / "envoy" / "_bin" / "envoy"
    return path if path.exists() else None


@dataclass
class Stack:
    """Everything one test talks to. Addresses are `ip:port`."""

    directory: Path
    shell: str
    servers: list[Child] = field(default_factory=list)
    upstreams: list[str] = field(default_factory=list)
    picker: Child | None = None
    envoy: EnvoyProcess | None = None
    ports: tuple[int, int, int] = (0, 0, 0)  # ext_proc, health, metrics
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The listener that asks picker."""
        assert self.envoy is not None
        return f"http://{self.envoy.addresses['picker']}"

    @property
    def endpoints_file(self) -> Path:
        return self.directory / "endpoints.yaml"

    def start_servers(self, count: int, *flags: str) -> None:
        first = len(self.servers)
        for index in range(first, first + count):
            log = self.directory / f"server-{index}.log"
            command = picker_command(
                "model-server", "--port", "0", "--speedup", "1000", "--num-blocks", "200000", *flags
            )
            self.servers.append(Child(f"model server {index}", command, log))
        for server in self.servers[first:]:
            server.wait_until(lambda server=server: LISTENING in server.log_text(), READY_S)
            line = next(line for line in server.log_text().splitlines() if line.startswith(LISTENING))
            self.upstreams.append(line.removeprefix(LISTENING).strip())

    def write_endpoints(self, addresses: Sequence[str]) -> None:
        entries = []
        for address in addresses:
            host, port = split_address(address)
            entries.append({"name": f"server-{port}", "address": host, "port": port, "labels": {}})
        fresh = self.endpoints_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({"endpoints": entries}))
        fresh.replace(self.endpoints_file)

    def start_picker(self) -> None:
        """Start on ports of its choice (or start again, on the same ones) and wait until it is ready."""
        names = ("grpc-port", "grpc-health-port", "metrics-port")
        flags = [f"--{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        flags += ["--secure-serving=false", f"--endpoints-file={self.endpoints_file}", "--endpoints-interval=100ms"]
        command = picker_command("serve", f"--shell={self.shell}", *flags, *self.flags)
        self.picker = Child("picker", command, self.directory / "picker.log", self.environment)
        self.picker.wait_until(self._is_ready, READY_S)

    def start_envoy(self, gateway: Gateway | None = None, binary: Path | None = None) -> None:
        config = envoy_config(self.upstreams, f"127.0.0.1:{self.ports[0]}", gateway)
        self.envoy = EnvoyProcess(config, self.directory, binary=binary)
        self.envoy.wait_ready()

    def _is_ready(self) -> bool:
        assert self.picker is not None
        said = ports_in(self.picker.log_text())
        if len(said) < len(self.ports):
            return False
        self.ports = (said[EXT_PROC], said[HEALTH], said[METRICS])
        try:
            return self.admin("/readyz") == "ready\n"
        except OSError:
            return False

    def admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}{path}", timeout=5) as response:
            return str(response.read().decode())

    def decisions(self) -> list[dict[str, Any]]:
        """picker's latest picks, newest first."""
        return list(json.loads(self.admin("/debug/decisions?limit=1000")))

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What picker knows of each endpoint, by `ip:port`."""
        return {entry["target"]: entry for entry in json.loads(self.admin("/debug/endpoints"))}

    def metric(self, line: str) -> float | None:
        """The value of the series written exactly so on the metrics page."""
        for row in self.admin("/metrics").splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return None

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of that name with these labels."""
        families = text_string_to_metric_families(self.admin("/metrics"))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def plugin_failures(self, plugin: str, cause: str) -> float:
        """Requests a Python plugin was left out of."""
        return self.total("picker_plugin_failures_total", plugin_name=plugin, cause=cause)

    def ext_proc_stats(self) -> dict[str, int]:
        """Envoy's counters of its ext_proc filter, by their last name."""
        assert self.envoy is not None
        stats = self.envoy.stats()
        return {name.rpartition(".")[2]: value for name, value in stats.items() if ".ext_proc." in name}

    def wait_until(self, condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
        """Poll until it holds; AssertionError with picker's log if it never does."""
        end_s = time.monotonic() + deadline_s
        while not condition():
            log = self.picker.log_tail() if self.picker else ""
            assert time.monotonic() < end_s, f"not within {deadline_s} s; picker's log ends:\n{log}"
            time.sleep(0.05)

    def stop(self) -> None:
        children = [*self.servers, *([self.picker] if self.picker else []), *([self.envoy.child] if self.envoy else [])]
        stop_all(children)


@contextlib.contextmanager
def running(
    directory: Path,
    *,
    shell: str,
    servers: int = 2,
    server_flags: Sequence[str] = (),
    flags: Sequence[str] = (),
    gateway: Gateway | None = None,
    binary: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Stack]:
    """A stack that is ready, and gone afterwards."""
    stack = Stack(directory, shell, flags=tuple(flags), environment=environment or {})
    try:
        stack.start_servers(servers, *server_flags)
        stack.write_endpoints(stack.upstreams)
        stack.start_picker()
        stack.start_envoy(gateway, binary)
        yield stack
    finally:
        stack.stop()
