"""An example of `examples/` as it would run.

Its own manifests in a fake cluster, simulated model servers as its pods, a real picker that follows the cluster, and a
real Envoy that does as the routes say. RBAC is enforced: picker has the rights that deploy/ gives it.
"""

import http.client
import itertools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from picker.demo.processes import Child, free_port, picker_command, stop_all
from tests.support.cluster import TOKEN, Cluster
from tests.support.inference_gateway import InferenceGateway
from tests.support.manifests import NAMESPACE, build_with
from tests.support.ports import EXT_PROC, METRICS, ports_in

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = ["Gateway", "HTTPRoute", "InferencePool", "InferenceObjective"]  # the CRDs the examples say to install
READY_S = 60.0
LISTENING = "listening on "
_SUBNET = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"  # every pod has port 8000, and an address of its own
_HOSTS, _QUESTIONS = itertools.count(1), itertools.count(1)


@dataclass
class Example:
    """Everything one test talks to."""

    cluster: Cluster
    directory: Path
    values: dict[str, Any]
    servers: dict[str, Child] = field(default_factory=dict)  # by name of the pod
    addresses: dict[str, str] = field(default_factory=dict)
    picker: Child | None = None
    admin_port: int = 0
    body_router: str = ""
    gateway: InferenceGateway | None = None

    @property
    def admin_kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def url(self) -> str:
        assert self.gateway is not None
        return self.gateway.url

    def wait_synced(self) -> None:
        """Until Envoy does what the cluster says now."""
        assert self.gateway is not None
        self.gateway.wait_synced()

    def start_pods(self, speedup: float) -> None:
        """A model server for each replica of each Deployment, as its arguments say, and the pod it would be."""
        for deployment in self.cluster.list("Deployment"):
            for number in range(deployment["spec"]["replicas"]):
                self._start_pod(deployment, number, speedup)
        for name, server in self.servers.items():
            server.wait_until(partial(_listens, server), READY_S)
            labels = self.cluster.get("Deployment", name.rpartition("-")[0], NAMESPACE)["spec"]["template"]["metadata"][
                "labels"
            ]
            self.cluster.pod(name, self.addresses[name].partition(":")[0], labels=labels, namespace=NAMESPACE)

    def _start_pod(self, deployment: dict[str, Any], number: int, speedup: float) -> None:
        name = f"{deployment['metadata']['name']}-{number}"
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        host, port = f"{_SUBNET}.{next(_HOSTS)}", container["ports"][0]["containerPort"]
        flags = ["--host", host, "--port", str(port), "--speedup", str(speedup), "--num-blocks", "100000"]
        flags += _vllm_flags(container["args"])
        self.addresses[name] = f"{host}:{port}"
        self.servers[name] = Child(name, picker_command("model-server", *flags), self.directory / f"{name}.log")

    def start_picker(self) -> str:
        """With the flags the chart would give it for these values, and its rights. Its address."""
        self._grant()
        token = self.cluster.token("picker", NAMESPACE)
        kubeconfig = self.cluster.kubeconfig(self._own("picker"), token=token, namespace=NAMESPACE)
        flags = [
            f"--pool-name={','.join(self.values['pools'])}",
            f"--pool-namespace={NAMESPACE}",
            f"--kubeconfig={kubeconfig}",
            "--secure-serving=false",
        ]
        flags += ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"]
        if self.values["bodyBasedRouter"]["enabled"]:
            flags.append(f"--bbr-port={free_port()}")
        if "config" in self.values:
            file = self.directory / "config.yaml"
            file.write_text(yaml.safe_dump(self.values["config"]))
            flags.append(f"--config-file={file}")
        self.picker = Child("picker", picker_command("serve", *flags), self.directory / "picker.log")
        self.picker.wait_until(self._is_ready, READY_S)
        self.body_router = f"127.0.0.1:{flag_value(flags, '--bbr-port')}"
        return f"127.0.0.1:{ports_in(self.picker.log_text())[EXT_PROC]}"

    def _grant(self) -> None:
        """What picker is given in a cluster: its account and its roles, and no more."""
        for each in build_with("base", ["body-based-router"], self._own("kustomized")):
            if each["kind"] == "ServiceAccount" or "Role" in each["kind"]:
                self.cluster.apply(each)

    def _own(self, name: str) -> Path:
        """A new directory."""
        made = self.directory / name
        made.mkdir()
        return made

    def _is_ready(self) -> bool:
        assert self.picker is not None
        said = ports_in(self.picker.log_text())
        self.admin_port = said.get(METRICS, 0)
        try:
            return bool(self.admin_port) and self.admin("/readyz") == "ready\n"
        except OSError:
            return False

    def admin(self, path: str) -> str:
        """What picker's metrics port says to an administrator of the cluster."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}")
        request.add_header("authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(response.read().decode())

    def decisions(self) -> list[dict[str, Any]]:
        """picker's latest picks, newest first."""
        return list(json.loads(self.admin("/debug/decisions?limit=1000")))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)

    def ask(self, connection: http.client.HTTPConnection, model: str, **headers: str) -> tuple[int, Any]:
        """One short chat. Its status, and the answer."""
        content = f"question {next(_QUESTIONS)}"
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json", **headers}
        )
        response = connection.getresponse()
        said = response.read()
        return response.status, json.loads(said) if said[:1] == b"{" else said.decode()

    def served(self) -> dict[str, int]:
        """Requests each Deployment's pods have served, as they count themselves."""
        found: dict[str, int] = {}
        for name, address in self.addresses.items():
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                families = text_string_to_metric_families(response.read().decode())
            samples = [
                each for family in families for each in family.samples if each.name == "vllm:request_success_total"
            ]
            deployment = name.rpartition("-")[0]
            found[deployment] = found.get(deployment, 0) + int(sum(each.value for each in samples))
        return found


def _listens(server: Child) -> bool:
    return LISTENING in server.log_text()


def flag_value(flags: list[str], name: str) -> str:
    return next(flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}="))


def _vllm_flags(arguments: list[str]) -> list[str]:
    """vLLM's, as far as the simulated server has their like."""
    given = [argument.partition("=") for argument in arguments]
    named = {name: value for name, _, value in given if name.startswith("--")}
    flags = ["--model", named["--served-model-name"], "--max-lora", named.get("--max-loras", "0")]
    adapters = [name for name, _, path in given if path.startswith("/adapters/")]
    return flags + [flag for adapter in adapters for flag in ("--lora", adapter)]


@contextmanager
def running(name: str, directory: Path, *, speedup: float = 1000.0) -> Iterator[Example]:
    """The example of that name, ready, and gone afterwards."""
    values = yaml.safe_load((EXAMPLES / name / "picker-values.yaml").read_text())
    with Cluster(extensions=KINDS, rbac=True) as cluster:
        example = Example(cluster, directory, values)
        try:
            cluster.kubeconfig(directory, namespace=NAMESPACE)
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
            kubectl(example.admin_kubeconfig, "apply", "-f", str(EXAMPLES / name / "manifests"))
            example.start_pods(speedup)
            address = example.start_picker()
            pickers = {f"{NAMESPACE}/{service}": address for service in _services(values["pools"])}
            with InferenceGateway(cluster, directory / "gateway", pickers, body_router=example.body_router) as gateway:
                example.gateway = gateway
                yield example
        finally:
            stop_all([*example.servers.values(), *([example.picker] if example.picker else [])])


def kubectl(kubeconfig: Path, *arguments: str) -> str:
    """The real one; its output. Raises AssertionError with what it said."""
    command = [str(Path(sys.prefix, "bin", "kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    command.append(f"--cache-dir={kubeconfig.parent}/cache")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _services(pools: list[str]) -> list[str]:
    """Those the chart makes of a release `picker`: of several pools one each."""
    return ["picker", *(f"picker-{pool}" for pool in pools if len(pools) > 1)]
