"""The gateway that other tests stand on: shares, live changes and status, with real pickers and a real Envoy."""

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.support.cluster import Cluster
from tests.support.inference_gateway import InferenceGateway

pytestmark = pytest.mark.e2e
POOLS = ("old", "new")
INFERENCE = "inference.networking.k8s.io"


@dataclass
class Site:
    """Two pools, each with a picker and two model servers, behind one gateway."""

    cluster: Cluster
    gateway: InferenceGateway
    stacks: dict[str, Stack] = field(default_factory=dict)

    def weigh(self, **weights: int) -> None:
        refs = [{"group": INFERENCE, "kind": "InferencePool", "name": name, "weight": n} for name, n in weights.items()]
        self.route("main", {"backendRefs": refs})
        self.gateway.wait_synced()

    def route(self, name: str, *rules: dict[str, Any]) -> None:
        spec = {"parentRefs": [{"name": "gateway"}], "rules": list(rules)}
        metadata = {"name": name}
        self.cluster.apply(
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": spec}
        )

    def ask(self, path: str = "/v1/completions", **headers: str) -> int:
        body = json.dumps({"model": "sim", "prompt": "hi", "max_tokens": 1}).encode()
        request = urllib.request.Request(
            f"{self.gateway.url}{path}", body, {"content-type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                response.read()
                return int(response.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    def asked(self) -> dict[str, float]:
        """Requests each picker has seen."""
        return {name: stack.total("inference_objective_request_total") for name, stack in self.stacks.items()}

    def shares(self, requests: int) -> dict[str, float]:
        before = self.asked()
        assert Counter(self.ask() for _ in range(requests)) == {200: requests}
        after = self.asked()
        return {name: after[name] - before[name] for name in POOLS}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    stacks: dict[str, Stack] = {}
    try:
        with Cluster() as cluster:
            for name in POOLS:
                (directory / name).mkdir()
                stacks[name] = Stack(directory / name, "wire")
                start(stacks[name])
                cluster.apply(pool(name))
            pickers = {f"default/picker-{name}": f"127.0.0.1:{stack.ports[0]}" for name, stack in stacks.items()}
            with InferenceGateway(cluster, directory / "gateway", pickers) as gateway:
                yield Site(cluster, gateway, stacks)
    finally:
        for stack in stacks.values():
            stack.stop()


def start(stack: Stack) -> None:
    stack.start_servers(2)
    stack.write_endpoints(stack.upstreams)
    stack.start_picker()


def pool(name: str) -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]}
    spec |= {"endpointPickerRef": {"name": f"picker-{name}", "port": {"number": 9002}}}
    return {"apiVersion": f"{INFERENCE}/v1", "kind": "InferencePool", "metadata": {"name": name}, "spec": spec}


def test_weights_are_shares_and_only_the_pool_that_serves_is_asked(site: Site) -> None:
    site.weigh(old=90, new=10)
    shares = site.shares(400)
    assert sum(shares.values()) == 400
    assert 14 <= shares["new"] <= 72  # 40 expected, 5 standard deviations
    site.weigh(old=100, new=0)
    assert site.shares(50) == {"old": 50, "new": 0}


def test_changes_of_weights_cost_no_request(site: Site) -> None:
    site.weigh(old=100, new=0)
    ended = threading.Event()
    answers: Counter[int] = Counter()

    def load() -> None:
        while not ended.is_set():
            answers[site.ask()] += 1

    clients = [threading.Thread(target=load) for _ in range(3)]
    for each in clients:
        each.start()
    for weight in range(5, 101, 5):
        site.weigh(old=100 - weight, new=weight)
        before = sum(answers.values())
        while sum(answers.values()) < before + 10:
            assert any(each.is_alive() for each in clients)
            ended.wait(0.01)
    ended.set()
    for each in clients:
        each.join()
    assert set(answers) == {200}
    assert site.shares(20) == {"old": 0, "new": 20}


def test_what_is_in_force_stands_in_the_status(site: Site) -> None:
    site.weigh(old=1, new=1)
    route = site.cluster.get("HTTPRoute", "main")
    (parent,) = route["status"]["parents"]
    assert parent["parentRef"]["name"] == "gateway"
    told = {each["type"]: (each["status"], each["observedGeneration"]) for each in parent["conditions"]}
    generation = route["metadata"]["generation"]
    assert told == {"Accepted": ("True", generation), "ResolvedRefs": ("True", generation)}
    (parent,) = site.cluster.get("InferencePool", "new")["status"]["parents"]
    assert parent["parentRef"]["namespace"] == "default"


def test_the_most_exact_match_decides(site: Site) -> None:
    ref = {"group": INFERENCE, "kind": "InferencePool"}
    header = {"name": "X-Team", "value": "b"}
    exact = {"matches": [{"path": {"type": "Exact", "value": "/v1/models"}}], "backendRefs": [{**ref, "name": "gone"}]}
    prefix = {"matches": [{"path": {"value": "/v1/completions"}, "headers": [header]}]}
    site.weigh(old=1)
    site.route("other", exact, {**prefix, "backendRefs": [{**ref, "name": "new"}]})
    site.gateway.wait_synced()
    before = site.asked()
    assert [site.ask(), site.ask(**{"x-team": "b"}), site.ask("/v1/models")] == [200, 200, 503]
    after = site.asked()
    assert [after[name] - before[name] for name in POOLS] == [1, 1]
    (parent,) = site.cluster.get("HTTPRoute", "other")["status"]["parents"]
    assert parent["conditions"][1]["reason"] == "BackendNotFound"
    site.cluster.delete("HTTPRoute", "other")
    site.gateway.wait_synced()


def test_a_pool_whose_picker_is_gone_fails_closed(site: Site) -> None:
    site.cluster.apply({**pool("lost"), "metadata": {"name": "lost"}})
    site.gateway.set_picker("default/picker-lost", "127.0.0.1:1")
    site.weigh(lost=1)
    assert site.ask() == 500
    site.weigh(old=1)
    assert site.ask() == 200


def test_a_service_is_a_backend_too(site: Site) -> None:
    host, _, port = site.stacks["old"].upstreams[0].partition(":")
    site.cluster.pod("plain", host, labels={"app": "plain"})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"}}
    site.cluster.apply(
        {**service, "spec": {"selector": {"app": "plain"}, "ports": [{"port": 80, "targetPort": int(port)}]}}
    )
    before = site.asked()
    site.route("main", {"backendRefs": [{"name": "plain", "port": 80}]})
    site.gateway.wait_synced()
    assert site.ask() == 200
    assert site.asked() == before
