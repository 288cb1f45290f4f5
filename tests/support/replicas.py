"""Two pickers of one pool as they would run in a cluster, of which one leads, behind a real Envoy under steady load.

A fake API server, simulated model servers as pods, `picker serve` twice with leader election, and an Envoy that knows
both pickers and asks each for its health on the ext_proc port, as the standalone chart does.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from picker.demo.envoy import EnvoyProcess, Gateway, envoy_config
from picker.demo.processes import Child, picker_command, split_address, stop_all
from picker.kube.election import lease_name
from tests.support.cluster import Cluster
from tests.support.polling import wait_until
from tests.support.ports import EXT_PROC, HEALTH, METRICS, ports_in

__all__ = ["LEASE", "Checks", "Outcome", "Replica", "Replicas", "Steady", "replicas_under"]

READY_S = 60.0
POOL = "chat"
LEASE = lease_name("default", POOL)
PORT = 8000
LABELS = {"app": POOL}
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_SUBNET = f"127.{128 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
_HOSTS = itertools.count(1)


class Replica:
    """One `picker serve`; started again it has the ports it had."""

    def __init__(self, name: str, directory: Path, flags: list[str]) -> None:
        self.name = name
        self._flags = flags
        self._directory = directory
        self._lives = itertools.count(1)
        self.ports: dict[str, int] = {EXT_PROC: 0, HEALTH: 0, METRICS: 0}
        self.start()

    def start(self) -> None:
        names = {EXT_PROC: "grpc-port", HEALTH: "grpc-health-port", METRICS: "metrics-port"}
        ports = [f"--{names[what]}={port}" for what, port in self.ports.items()]
        log = self._directory / f"{self.name}-{next(self._lives)}.log"
        command = picker_command("serve", *self._flags, *ports)
        self.child = Child(self.name, command, log, {"POD_NAME": self.name})

    def wait_listening(self) -> None:
        """Until it watches and scrapes, whether it leads or not."""
        self.child.wait_until(lambda: len(ports_in(self.child.log_text())) == 3, READY_S)
        self.ports = ports_in(self.child.log_text())
        self.child.wait_until(lambda: bool(self.endpoints()), READY_S)

    def admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[METRICS]}{path}", timeout=5) as response:
            return str(response.read().decode())

    @property
    def is_ready(self) -> bool:
        try:
            return self.admin("/readyz") == "ready\n"
        except OSError:
            return False

    def endpoints(self) -> list[dict[str, Any]]:
        """What it knows of each pod."""
        try:
            return list(json.loads(self.admin("/debug/endpoints")))
        except OSError:
            return []

    def decisions(self) -> list[dict[str, Any]]:
        """Its latest picks, newest first."""
        return list(json.loads(self.admin("/debug/decisions?limit=1000")))

    def said(self, message: str) -> list[float]:
        """When its log says so, in seconds since the epoch."""
        lines = (json.loads(line) for line in self.child.log_text().splitlines() if line.startswith("{"))
        return [float(line["ts"]) for line in lines if line["msg"] == message]

    def control_pid(self) -> int:
        """The process that watches, scrapes and stands for election."""
        (pid,) = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return int(pid)

    def crash(self) -> None:
        """Both its processes at once, as when a container or its node ends."""
        control = self.control_pid()
        os.kill(control, signal.SIGKILL)
        self.child.kill()


@dataclass(frozen=True)
class Checks:
    """How Envoy looks after its pickers: the time between two health checks, and the share of healthy pickers below
    which it asks all of them (0: never, then nobody is asked while none leads)."""

    check_s: float = 0.25
    panic_percent: int = 0


@dataclass
class Outcome:
    """One request: when it was sent and ended (monotonic seconds), and its status (0: no answer)."""

    sent_s: float
    ended_s: float
    status: int


@dataclass
class Steady:
    """Requests at a steady pace, whatever becomes of them, from a thread of its own."""

    url: str
    per_s: float
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "Steady":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, sent_s: float) -> list[Outcome]:
        """Those sent from then on, that have ended."""
        return [outcome for outcome in list(self.outcomes) if outcome.sent_s >= sent_s]

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            open_: set[asyncio.Task[None]] = set()
            begun_s = time.monotonic()
            for number in itertools.count():
                if self._stop.is_set():
                    break
                task = asyncio.create_task(self._ask(session, number))
                open_.add(task)
                task.add_done_callback(open_.discard)
                await asyncio.sleep(max(0.0, begun_s + (number + 1) / self.per_s - time.monotonic()))
            if open_:
                await asyncio.wait(open_)

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        body = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": f"question {number}"}]}
        sent_s, status = time.monotonic(), 0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                await response.read()
                status = response.status
        self.outcomes.append(Outcome(sent_s, time.monotonic(), status))


class Replicas:
    """Everything one test talks to."""

    def __init__(self, cluster: Cluster, directory: Path, flags: Sequence[str], settings: Checks) -> None:
        self.cluster = cluster
        self._directory = directory
        self._flags = [
            f"--pool-name={POOL}",
            f"--kubeconfig={cluster.kubeconfig(directory)}",
            "--ha-enable-leader-election",
            "--health-checking",
            "--secure-serving=false",
            "--metrics-endpoint-auth=false",
            "--zap-encoder=json",
            *flags,
        ]
        self._settings = settings
        self._servers: list[Child] = []
        self.pickers: list[Replica] = []
        self.envoy: EnvoyProcess | None = None
        cluster.apply(
            {
                "apiVersion": "inference.networking.k8s.io/v1",
                "kind": "InferencePool",
                "metadata": {"name": POOL},
                "spec": {
                    "selector": {"matchLabels": LABELS},
                    "targetPorts": [{"number": PORT}],
                    "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
                },
            }
        )

    @property
    def url(self) -> str:
        assert self.envoy is not None
        return f"http://{self.envoy.addresses['picker']}"

    @property
    def lease(self) -> dict[str, Any]:
        return dict(self.cluster.get("Lease", LEASE)["spec"])

    def start(self) -> None:
        for _ in range(2):
            self.start_server()
        self.pickers = [Replica(f"picker-{number}", self._directory, self._flags) for number in range(2)]
        for picker in self.pickers:
            picker.wait_listening()
        config = envoy_config([], f"127.0.0.1:{self.pickers[0].ports[EXT_PROC]}", Gateway(connect_timeout_s=1.0))
        self._have_both(config)
        self.envoy = EnvoyProcess(config, self._directory)
        self.envoy.wait_ready()

    def start_server(self) -> str:
        """One more model server, and its pod. Its `ip:port`."""
        host = f"{_SUBNET}.{next(_HOSTS)}"
        name = f"server-{len(self._servers)}"
        flags = ["--host", host, "--port", str(PORT), "--speedup", "1000", "--num-blocks", "100000"]
        server = Child(name, picker_command("model-server", *flags), self._directory / f"{name}.log")
        self._servers.append(server)
        server.wait_until(lambda: "listening on " in server.log_text(), READY_S)
        self.cluster.pod(name, host, labels=LABELS)
        return f"{host}:{PORT}"

    def _have_both(self, config: dict[str, Any]) -> None:
        """As a standalone Envoy should know them; `docs/kubernetes.md` says why.

        Who is not leading is out with the first check, so the next one must be in with the first one too, and at once:
        else Envoy keeps the second change of a second to itself until the second is over.
        """
        (epp,) = (each for each in config["static_resources"]["clusters"] if each["name"] == "epp")
        members = []
        for picker in self.pickers:
            host, port = split_address(f"127.0.0.1:{picker.ports[EXT_PROC]}")
            members.append({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}})
        epp["load_assignment"]["endpoints"] = [{"lb_endpoints": members}]
        epp["common_lb_config"] = {
            "update_merge_window": "0s",
            "healthy_panic_threshold": {"value": self._settings.panic_percent},
        }
        pause = f"{self._settings.check_s:g}s"
        epp["health_checks"] = [
            {
                "timeout": "2s",
                "interval": pause,
                "no_traffic_interval": pause,
                "no_traffic_healthy_interval": pause,
                "healthy_threshold": 1,
                "unhealthy_threshold": 2,
                "grpc_health_check": {"service_name": SERVICE},
            }
        ]

    def leader(self) -> Replica:
        """The one that is ready. Waits until there is one, and Envoy knows."""
        found: list[Replica] = []

        def is_one() -> bool:
            found[:] = [picker for picker in self.pickers if picker.is_ready]
            return len(found) == 1 and self.healthy() == 1

        wait_until(is_one)
        return found[0]

    def healthy(self) -> int:
        """How many pickers Envoy would ask."""
        assert self.envoy is not None
        return self.envoy.stats()["cluster.epp.membership_healthy"]

    def follower(self) -> Replica:
        leader = self.leader()
        return next(picker for picker in self.pickers if picker is not leader)

    def stop(self) -> None:
        children = [*self._servers, *(picker.child for picker in self.pickers)]
        stop_all([*children, *([self.envoy.child] if self.envoy else [])])


@contextlib.contextmanager
def replicas_under(directory: Path, flags: Sequence[str], checks: Checks) -> Iterator[Replicas]:
    """Both listen, one leads, and Envoy asks it. `flags`: more of `picker serve`."""
    with Cluster() as cluster:
        made = Replicas(cluster, directory, flags, checks)
        try:
            made.start()
            made.leader()
            yield made
        finally:
            made.stop()
