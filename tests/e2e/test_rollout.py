"""Rollouts with real traffic: a cluster, its gateway (a real Envoy), a picker for each pool, and clients that ask on.

A good one reaches all of the traffic; a bad one, slow or failing, is rolled back with the reason in `status`; one whose
controller is killed is gone on with; and at no time does a client get more than the errors that were injected.
"""

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import pytest

from picker.demo.processes import Child, picker_command, split_address, stop_all
from tests.e2e.stack import LISTENING, READY_S
from tests.support.cluster import Cluster
from tests.support.inference_gateway import InferenceGateway
from tests.support.ports import EXT_PROC, METRICS, ports_in

pytestmark = pytest.mark.e2e

INFERENCE = "inference.networking.k8s.io"
ADAPTERS = ("review-v1", "review-v2")
QUICK = ("--steps=30,60,100", "--every=1500ms", "--check-interval=200ms", "--heartbeat=500ms", "--min-requests=40")
TOLERANT = ("--max-ttft-ratio=8", "--ttft-slack=500ms")  # of what a busy machine does to times
ENDED_S = 90.0
CLIENTS = 4
PAUSE_S = 0.02


@dataclass
class Site:
    """Pools `old` and `new`, each with a picker; servers good (of either pool), slow and failing."""

    directory: Path
    cluster: Cluster
    children: list[Child] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)
    pickers: dict[str, str] = field(default_factory=dict)
    gateway: InferenceGateway | None = None

    # --- what runs ---

    def serve_models(self, name: str, *flags: str) -> None:
        command = picker_command("model-server", "--port=0", "--num-blocks=100000", *flags)
        command += [f"--lora={adapter}" for adapter in ADAPTERS]
        child = Child(f"server {name}", command, self.directory / f"server-{name}.log")
        self.children.append(child)
        child.wait_until(lambda: LISTENING in child.log_text(), READY_S)
        self.servers[name] = child.log_text().partition(LISTENING)[2].split()[0]

    def pick_for(self, pool: str) -> None:
        """The pool's picker, its Service and its pod, whose metrics want a token."""
        flags = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--secure-serving=false"]
        flags += [f"--pool-name={pool}", f"--kubeconfig={self.directory / 'kubeconfig'}"]
        child = Child(f"picker {pool}", picker_command("serve", *flags), self.directory / f"picker-{pool}.log")
        self.children.append(child)
        child.wait_until(lambda: {EXT_PROC, METRICS} <= ports_in(child.log_text()).keys(), READY_S)
        ports = ports_in(child.log_text())
        self.pickers[f"default/picker-{pool}"] = f"127.0.0.1:{ports[EXT_PROC]}"
        self.cluster.pod(f"picker-{pool}-0", "127.0.0.1", labels={"app": f"picker-{pool}"})
        spec: dict[str, Any] = {"selector": {"app": f"picker-{pool}"}, "ports": [{"name": "grpc", "port": 9002}]}
        spec["ports"].append({"name": "http-metrics", "port": 9090, "targetPort": ports[METRICS]})
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"picker-{pool}"}, "spec": spec}
        )

    def pool(self, name: str, server: str) -> None:
        """The pool is this server from now on."""
        host, port = split_address(self.servers[server])
        self.cluster.pod(f"server-{name}-0", host, labels={"app": name})
        self.cluster.proxied["default", f"server-{name}-0", port] = self.servers[server]
        spec: dict[str, Any] = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": port}]}
        spec["endpointPickerRef"] = {"name": f"picker-{name}", "port": {"number": 9002}}
        self.cluster.apply(
            {"apiVersion": f"{INFERENCE}/v1", "kind": "InferencePool", "metadata": {"name": name}, "spec": spec}
        )

    def route(self) -> None:
        """All traffic to the old pool, and nothing known of rollouts."""
        spec = {
            "parentRefs": [{"name": "gateway"}],
            "rules": [{"backendRefs": [{"group": INFERENCE, "kind": "InferencePool", "name": "old"}]}],
        }
        self.cluster.apply(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": "llm"},
                "spec": spec,
            }
        )

    def rewrite(self) -> None:
        """`review` is served by its first version."""
        rule = {"matches": [{"model": {"value": "review"}}], "targets": [{"modelRewrite": ADAPTERS[0]}]}
        self.cluster.apply(
            {
                "apiVersion": "llm-d.ai/v1alpha2",
                "kind": "InferenceModelRewrite",
                "metadata": {"name": "review"},
                "spec": {"poolRef": {"name": "old"}, "rules": [rule]},
            }
        )

    # --- what tests ask ---

    def ask(self, model: str) -> int:
        assert self.gateway is not None
        body = json.dumps({"model": model, "prompt": "hi", "max_tokens": 1}).encode()
        url = f"{self.gateway.url}/v1/completions"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                response.read()
                return int(response.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    def fail(self, server: str, rate: float) -> None:
        body = json.dumps({"error_rate": rate}).encode()
        with urllib.request.urlopen(f"http://{self.servers[server]}/admin/faults", body, timeout=5) as response:
            response.read()

    def weights(self) -> dict[str, int]:
        refs = self.cluster.get("HTTPRoute", "llm")["spec"]["rules"][0]["backendRefs"]
        return {ref["name"]: ref["weight"] for ref in refs}

    def targets(self) -> dict[str, int]:
        targets = self.cluster.get("InferenceModelRewrite.llm-d.ai", "review")["spec"]["rules"][0]["targets"]
        return {each["modelRewrite"]: each.get("weight", 1) for each in targets}

    def command(self, action: str, *flags: str) -> list[str]:
        flags = (f"--metrics-token-file={self.directory / 'token'}", *flags)
        flags = (f"--kubeconfig={self.directory / 'kubeconfig'}", "--metrics-via=pods", *flags)
        return picker_command("rollout", action, *flags)

    def start(self, *flags: str) -> Child:
        child = Child("rollout", self.command("start", *flags), self.directory / "rollout.log")
        self.children.append(child)
        return child

    def status(self, *flags: str) -> dict[str, Any]:
        done = run_process(self.command("status", "--output=json", *flags), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


POOLS = ("--route=llm", "--from=old", "--to=new")
MODELS = ("--rewrite=review", "--model=review", f"--from={ADAPTERS[0]}", f"--to={ADAPTERS[1]}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Cluster() as cluster:
        site = Site(tmp_path_factory.mktemp("rollout"), cluster)
        cluster.kubeconfig(site.directory)
        cluster.reviews.tokens["rollout"] = ("system:serviceaccount:default:rollout", ())
        cluster.reviews.allowed.add(("system:serviceaccount:default:rollout", "get", "/metrics"))
        (site.directory / "token").write_text("rollout\n")
        try:
            for name in ("old", "good", "failing"):
                site.serve_models(name, "--speedup=1000")
            site.serve_models("slow", "--speedup=0.1")  # 0.4 s to the first token
            site.pool("old", "old")
            site.pool("new", "good")
            site.rewrite()
            for pool in ("old", "new"):
                site.pick_for(pool)
            site.route()
            with InferenceGateway(cluster, site.directory / "gateway", site.pickers) as site.gateway:
                yield site
        finally:
            stop_all(site.children)


@pytest.fixture
def site(made: Site) -> Site:
    made.route()
    made.rewrite()
    made.pool("new", "good")
    assert made.gateway is not None
    made.gateway.wait_synced()
    return made


class Traffic:
    """Clients that ask, bounded in number and pace, until the test is over; `answers` by status."""

    def __init__(self, site: Site, model: str) -> None:
        self.answers: Counter[int] = Counter()
        self._site, self._model = site, model
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        while not self._ended.wait(PAUSE_S):
            self.answers[self._site.ask(self._model)] += 1

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def ended(child: Child) -> int:
    """Its exit code, once it is over."""
    wait(child, lambda: not child.alive)
    assert child.returncode is not None
    return child.returncode


def wait(child: Child, condition: Callable[[], bool]) -> None:
    """Until it holds, or the child is over."""
    child.wait_until(lambda: condition() or not child.alive, ENDED_S) if child.alive else None


def progress(site: Site) -> str:
    return (site.directory / "rollout.log").read_text()


def test_plan_says_what_would_happen_and_moves_nothing(site: Site) -> None:
    done = run_process(site.command("plan", *POOLS), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule 0: default/old 90, default/new 10" in done.stdout
    assert "all 2 are on every server" in done.stdout
    assert "readable" in done.stdout
    assert site.weights() == {"old": 1}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--route=llm", "--from=old", "--to=another"), "there is no InferencePool default/another"),
        (("--route=another", "--from=old", "--to=new"), "there is no HTTPRoute default/another"),
        (("--route=llm", "--from=new", "--to=old"), "no rule sends traffic to default/new"),
        (("--rewrite=review", "--model=review", "--from=review-v1", "--to=review-v3"), "not loaded on every server"),
    ],
)
def test_what_cannot_be_is_said_before_anything_moves(site: Site, flags: Sequence[str], said: str) -> None:
    done = run_process(site.command("start", *flags), capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2)
    assert said in done.stderr.replace("\n", " ")
    assert (site.weights(), site.targets()) == ({"old": 1}, {"review-v1": 1})


def test_a_good_rollout_reaches_all_of_the_traffic(site: Site) -> None:
    with Traffic(site, "sim") as traffic:
        code = ended(site.start(*POOLS, *QUICK, *TOLERANT))
    assert code == 0, progress(site)
    assert site.weights() == {"old": 0, "new": 100}
    assert set(traffic.answers) == {200}
    assert site.status("--route=llm")["phase"] == "completed"


def test_one_that_is_slow_is_rolled_back(site: Site) -> None:
    site.pool("new", "slow")
    with Traffic(site, "sim") as traffic:
        code = ended(site.start(*POOLS, *QUICK, "--max-ttft-ratio=3", "--ttft-slack=100ms"))
    assert code == 3, progress(site)
    found = site.status("--route=llm")
    assert found["phase"] == "rolled-back"
    assert "time to first token p90" in found["reason"]
    assert found["new"]["ttft_p90_s"] > 0.3
    assert site.weights() == {"old": 1, "new": 0}
    assert set(traffic.answers) == {200}


def test_one_that_fails_5_per_cent_is_rolled_back(site: Site) -> None:
    site.pool("new", "failing")
    site.fail("failing", 0.05)
    with Traffic(site, "sim") as traffic:
        code = ended(site.start(*POOLS, *QUICK, *TOLERANT, "--every=4s"))
    assert code == 3, progress(site)
    found = site.status("--route=llm")
    assert (found["phase"], site.weights()) == ("rolled-back", {"old": 1, "new": 0})
    assert "error rate" in found["reason"]
    assert found["new"]["error_rate"] > 0.01
    assert found["old"]["error_rate"] == 0
    assert set(traffic.answers) == {200, 500}
    assert run_process(site.command("start", *POOLS), capture_output=True, timeout=30).returncode == 3  # not again


def test_one_that_is_killed_is_gone_on_with(site: Site) -> None:
    with Traffic(site, "sim") as traffic:
        first = site.start(*POOLS, *QUICK, *TOLERANT)
        wait(first, lambda: site.weights().get("new") == 60)
        first.kill()
        assert site.weights() == {"old": 40, "new": 60}, progress(site)
        left = site.status("--route=llm")
        assert (left["phase"], left["step"]) == ("progressing", 2)
        second = site.start("--route=llm")
        assert ended(second) == 0, progress(site)
    assert "at 60 %" in progress(site).splitlines()[0]
    assert "at 30 %" not in progress(site)
    assert site.weights() == {"old": 0, "new": 100}
    assert site.status("--route=llm")["started"] == left["started"]
    assert set(traffic.answers) == {200}


def test_rollback_by_hand_is_noticed(site: Site) -> None:
    with Traffic(site, "sim") as traffic:
        running = site.start(*POOLS, *QUICK, *TOLERANT, "--every=10m")
        wait(running, lambda: site.weights().get("new") == 30)
        done = run_process(site.command("rollback", "--route=llm"), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert ended(running) == 3
    assert (site.weights(), set(traffic.answers)) == ({"old": 1, "new": 0}, {200})


def test_an_adapter_is_rolled_out(site: Site) -> None:
    with Traffic(site, "review") as traffic:
        code = ended(site.start(*MODELS, *QUICK, *TOLERANT))
    assert code == 0, progress(site)
    assert site.targets() == {"review-v2": 100}
    assert site.weights() == {"old": 1}
    assert set(traffic.answers) == {200}
    found = site.status("--rewrite=review")
    assert (found["phase"], found["new"]["requests"] >= 40) == ("completed", True)
