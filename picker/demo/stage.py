"""Everything the demo runs against: model servers, Envoy and picker as processes on free loopback ports."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from picker.demo.envoy import EnvoyProcess, envoy_config
from picker.demo.processes import Child, free_port, picker_command, split_address, stop_all

MODEL = "sim"
READY_S = 30.0
IDLE_S = 30.0
CACHE_BLOCKS = 2810  # of 16 tokens: one A100-40GB
LISTENING = "listening on "


@dataclass(frozen=True)
class Counters:
    """One model server's own counters, in tokens; differences of two readings say what a half took."""

    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generation_tokens: int
    running: int

    def since(self, before: "Counters") -> "Counters":
        return Counters(
            self.prefix_queries - before.prefix_queries,
            self.prefix_hits - before.prefix_hits,
            self.prompt_tokens - before.prompt_tokens,
            self.generation_tokens - before.generation_tokens,
            self.running,
        )

    @property
    def work(self) -> int:
        """Tokens computed: prompt tokens that were not cached, and output."""
        return self.prompt_tokens - self.prefix_hits + self.generation_tokens


class Stage:
    """The `start_*` methods must run on the main thread (see `Child`), the `wait_*` methods may block for seconds."""

    def __init__(self, directory: Path, shell: str = "auto") -> None:
        self.directory = directory
        self._shell = shell
        self.servers: list[Child] = []
        self.server_addresses: list[str] = []
        self.picker: Child | None = None
        self.envoy: EnvoyProcess | None = None
        self._metrics_port = 0

    def start_servers(self, count: int) -> None:
        command = picker_command("model-server", "--port", "0", "--model", MODEL, "--num-blocks", str(CACHE_BLOCKS))
        for index in range(count):
            self.servers.append(Child(f"model server {index}", command, self.directory / f"server-{index}.log"))

    def wait_servers(self) -> None:
        """Raises RuntimeError, with the end of its log, for a server that does not come up."""
        for server in self.servers:
            server.wait_until(lambda server=server: LISTENING in server.log_text(), READY_S)  # type: ignore[misc]
            line = next(line for line in server.log_text().splitlines() if line.startswith(LISTENING))
            self.server_addresses.append(line.removeprefix(LISTENING).strip())

    def start_gateway(self) -> None:
        """Starts picker and Envoy for the servers that are up. Raises FileNotFoundError without an Envoy."""
        endpoints = self.directory / "endpoints.yaml"
        endpoints.write_text(yaml.safe_dump({"endpoints": [self._entry(a) for a in self.server_addresses]}))
        grpc_port, health_port, self._metrics_port = free_port(), free_port(), free_port()
        flags = [
            "--secure-serving=false",
            f"--grpc-port={grpc_port}",
            f"--grpc-health-port={health_port}",
            f"--metrics-port={self._metrics_port}",
            f"--endpoints-file={endpoints}",
            f"--shell={self._shell}",
        ]
        self.picker = Child("picker", picker_command("serve", *flags), self.directory / "picker.log")
        config = envoy_config(self.server_addresses, f"127.0.0.1:{grpc_port}")
        self.envoy = EnvoyProcess(config, self.directory)

    def _entry(self, address: str) -> dict[str, object]:
        host, port = split_address(address)
        return {"name": f"server-{port}", "address": host, "port": port, "labels": {}}

    def wait_gateway(self) -> None:
        """Raises RuntimeError, with the end of its log, if picker or Envoy does not come up."""
        if self.picker is None or self.envoy is None:
            raise RuntimeError("the gateway was not started")
        self.envoy.wait_ready()
        self.picker.wait_until(lambda: _is_ready(self._metrics_port), READY_S)

    def counters(self) -> list[Counters]:
        return [_counters(address) for address in self.server_addresses]

    def cool(self) -> None:
        """Empties the servers' prefix caches. Raises RuntimeError if requests are still running after `IDLE_S`."""
        end_s = time.monotonic() + IDLE_S
        for address in self.server_addresses:
            while not _reset(address):
                if time.monotonic() > end_s:
                    raise RuntimeError(f"requests are still running on {address}")
                time.sleep(0.05)

    def stop(self) -> None:
        children = [*self.servers]
        children += [self.picker] if self.picker is not None else []
        children += [self.envoy.child] if self.envoy is not None else []
        stop_all(children)


def _is_ready(metrics_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/readyz", timeout=2):
            return True
    except OSError:  # it does not listen yet, or answers 503
        return False


def _reset(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/reset_prefix_cache", data=b"", timeout=5):
            return True
    except urllib.error.HTTPError:  # 409: in use
        return False


def _counters(address: str) -> Counters:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        page = response.read().decode()
    samples = {s.name: int(s.value) for family in text_string_to_metric_families(page) for s in family.samples}
    return Counters(
        samples["vllm:prefix_cache_queries_total"],
        samples["vllm:prefix_cache_hits_total"],
        samples["vllm:prompt_tokens_total"],
        samples["vllm:generation_tokens_total"],
        samples["vllm:num_requests_running"],
    )
