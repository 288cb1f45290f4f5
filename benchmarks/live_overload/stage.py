"""What the load runs against: simulated model servers, pickers and one Envoy, each a process on loopback."""

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.live_overload.client import MODEL
from benchmarks.live_overload.scene import OBJECTIVES, STREAM_INTERVAL
from benchmarks.load.options import ROOT, Variant
from benchmarks.load.processes import Picker, cpu_s, listening, write_endpoints
from picker.demo.envoy import EnvoyProcess, Gateway, gateways_config
from picker.demo.processes import Child, machine_busy, picker_command, stop_all
from picker.sim import journal
from picker.sim.engine import EngineConfig
from picker.sim.gpus import GPUS

ROUND_ROBIN = "round robin"
GATEWAY = Gateway(steering="metadata", retries=1)  # a request whose server is gone goes to the next one picker lists

UNREAD = replace(GATEWAY, response_body="NONE")


@dataclass(frozen=True)
class Policy:
    """A way of routing: a listener of Envoy. `flags` are those of its picker; None: Envoy routes by itself.

    `gateway`: of the simulation, `module:class`, that decides instead of a picker.
    """

    name: str
    flags: tuple[str, ...] | None = ()
    config: str = ""
    gateway: str = ""


@dataclass(frozen=True)
class Size:
    """Of the pool. `gpu`: of `picker.sim.gpus`; `speed`: 1 is as fast as that."""

    servers: int = 6
    gpu: str = "h100"
    speed: float = 0.5

    @property
    def engine(self) -> EngineConfig:
        engine = GPUS[self.gpu]
        return replace(engine, timing=replace(engine.timing, speedup=self.speed))


class Stage:
    """Everything, up and ready. Addresses are `ip:port`."""

    def __init__(self, directory: Path, policies: Sequence[Policy], size: Size) -> None:
        self.directory = directory
        self.policies = policies
        self.journal = directory / "journal"
        self.size = size
        self.servers = [self._server(number) for number in range(size.servers)]
        self.addresses: list[str] = []
        self.pickers: dict[str, Picker] = {}
        self.processors: dict[str, Child] = {}
        self.envoy: EnvoyProcess | None = None

    def _server(self, number: int) -> Child:
        flags = ["--port", "0", "--model", MODEL, "--gpu", self.size.gpu, "--speedup", str(self.size.speed)]
        flags += ["--stream-interval", str(STREAM_INTERVAL), "--journal", str(self.journal)]
        command = picker_command("model-server", *flags)
        return Child(f"model server {number}", command, self.directory / f"server-{number}.log")

    def start(self) -> None:
        """RuntimeError, with the end of its log, for a process that does not come up."""
        self.addresses = [listening(server)[0] for server in self.servers]
        endpoints = write_endpoints(self.directory / "endpoints.yaml", self.addresses)
        for policy in self.policies:
            if policy.gateway:
                self.processors[policy.name] = self._processor(policy)
            elif policy.flags is not None:
                self.pickers[policy.name] = self._picker(policy, endpoints)
        for picker in self.pickers.values():
            picker.wait_ready()
        gateways = {name: (picker.address, GATEWAY) for name, picker in self.pickers.items()}
        gateways |= {name: (listening(child)[0], UNREAD) for name, child in self.processors.items()}
        self.envoy = EnvoyProcess(gateways_config(self.addresses, gateways), self.directory)
        self.envoy.wait_ready()

    def _processor(self, policy: Policy) -> Child:
        command = [sys.executable, "-m", "benchmarks.live_overload.processor", policy.gateway, *self.addresses]
        name = policy.name.replace(" ", "-")
        return Child(policy.name, command, self.directory / f"{name}.log", {"PYTHONPATH": str(ROOT)})

    def _picker(self, policy: Policy, endpoints: Path) -> Picker:
        name = policy.name.replace(" ", "-")
        objectives = self.directory / "objectives.yaml"
        objectives.write_text(yaml.safe_dump_all(_objective(priority) for priority in OBJECTIVES))
        flags = [f"--resources-file={objectives}", *(policy.flags or ())]
        if policy.config:
            config = self.directory / f"{name}.yaml"
            config.write_text(policy.config)
            flags.append(f"--config-file={config}")
        return Picker(Variant("wire"), endpoints, *flags, log=self.directory / f"{name}.log")

    def listener(self, policy: Policy) -> str:
        """The address clients ask."""
        assert self.envoy is not None
        return self.envoy.addresses["round_robin" if policy.flags is None else policy.name]

    def fault(self, number: int, **switches: Any) -> None:
        """Change what goes wrong at one server. One that dies of it resets the connection."""
        request = urllib.request.Request(f"http://{self.addresses[number]}/admin/faults", json.dumps(switches).encode())
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            pass

    def work(self) -> int:
        """Tokens that the living servers have computed so far, prompts and answers."""
        living = [address for address, child in zip(self.addresses, self.servers, strict=True) if child.alive]
        return sum(_tokens(address) for address in living)

    def journalled(self) -> list[tuple[str, str]]:
        return journal.read(self.journal)

    def used(self) -> "Used":
        """CPU seconds so far; servers one by one, as each has a loop of its own."""
        envoy = cpu_s(self.envoy.child.pid) if self.envoy else 0.0
        children = {name: picker.child for name, picker in self.pickers.items()} | self.processors
        pickers = {name: cpu_s(child.pid) for name, child in children.items()}
        return Used(envoy, pickers, tuple(cpu_s(child.pid) for child in self.servers), *machine_busy())

    def stop(self) -> None:
        children = [*self.servers, *(picker.child for picker in self.pickers.values()), *self.processors.values()]
        stop_all([*children, *([self.envoy.child] if self.envoy else [])])


@dataclass(frozen=True)
class Used:
    """CPU seconds of each part and of the machine."""

    envoy_s: float
    pickers_s: Mapping[str, float]
    servers_s: tuple[float, ...]
    busy_s: float
    total_s: float

    def since(self, before: "Used") -> "Used":
        pickers = {name: now - before.pickers_s[name] for name, now in self.pickers_s.items()}
        servers = tuple(now - then for now, then in zip(self.servers_s, before.servers_s, strict=True))
        busy_s, total_s = self.busy_s - before.busy_s, self.total_s - before.total_s
        return Used(self.envoy_s - before.envoy_s, pickers, servers, busy_s, total_s)


@contextlib.contextmanager
def staged(directory: Path, policies: Sequence[Policy], size: Size) -> Iterator[Stage]:
    """Up for as long as the context is open."""
    made = Stage(directory, policies, size)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _objective(priority: int) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": OBJECTIVES[priority]},
        "spec": {"priority": priority, "poolRef": {"name": "pool"}},
    }


def _tokens(address: str) -> int:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    wanted = ("vllm:prompt_tokens_total{", "vllm:generation_tokens_total{")
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(wanted))
