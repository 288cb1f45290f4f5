"""What is rendered, applied by kubectl to an API server; and picker run by its args, asking what its Role allows."""

import contextlib
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.demo.processes import Child, picker_command
from tests.support import customkinds
from tests.support.cluster import Cluster
from tests.support.manifests import (
    KUSTOMIZE,
    NAMESPACE,
    Json,
    build,
    containers,
    key,
    needs_helm,
    needs_kubectl,
    only,
    picker_args,
    render,
)
from tests.support.ports import HEALTH, METRICS, free_port, ports_in

OVERLAYS = ["base", *sorted(f"overlays/{path.name}" for path in (KUSTOMIZE / "overlays").iterdir())]
READY_S = 30.0
POOL: Json = {"inferencePool": {"create": True, "name": "chat", "matchLabels": {"app": "chat"}}}
PODS: Json = {"endpointSelector": "app=chat", "gateway": "standalone"}

# --- applying ---


def definition(group: str, version: str, kind: str) -> Json:
    """A CRD for a kind that the cluster does not know; what may stand in it customkinds.py knows."""
    plural = kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as started:
        for api_version, kind in customkinds.KINDS:
            group, _, version = api_version.partition("/")
            if not group.startswith(("gateway.networking.k8s.io", "inference.", "llm-d.ai")):
                started.apply(definition(group, version, kind))
        started.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield started


def kubectl(cluster: Cluster, directory: Path, objects: list[Json]) -> list[str]:
    """What `kubectl apply` says of each."""
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig(directory)}", f"--cache-dir={directory}"]
    ended = subprocess.run(
        [*command, "apply", "-f", "-"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@needs_kubectl
@pytest.mark.parametrize("directory", OVERLAYS)
def test_kubectl_applies_it_and_finds_nothing_to_change_again(directory: str, cluster: Cluster, tmp_path: Path) -> None:
    objects = build(KUSTOMIZE / directory)
    assert {line.rpartition(" ")[2] for line in kubectl(cluster, tmp_path, objects)} == {"created"}
    assert {line.rpartition(" ")[2] for line in kubectl(cluster, tmp_path, objects)} == {"unchanged"}
    for kind, namespace, name in map(key, objects):
        assert cluster.get(kind, name, namespace)["metadata"]["name"] == name


# --- running ---


def granted(objects: list[Json]) -> list[tuple[str, Json]]:
    """(namespace, rule) of all that picker's account is bound to; without a namespace, everywhere."""
    account = only(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {(each["kind"], *key(each)[1:]): each["rules"] for each in objects if each["kind"].endswith("Role")}
    found: list[tuple[str, Json]] = []
    for binding in objects:
        if binding["kind"].endswith("Binding") and any(who["name"] == account for who in binding["subjects"]):
            _, namespace, _ = key(binding)
            rules = roles[binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]]
            found += [(namespace, rule) for rule in rules]
    return found


PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def verb_of(method: str, query: dict[str, list[str]], name: str | None) -> str:
    if method != "GET":
        return VERBS[method]
    return "watch" if query.get("watch", ["0"])[0] in ("1", "true") else "get" if name else "list"


def is_allowed(request: tuple[str, str], grants: list[tuple[str, Json]]) -> bool:
    """As RBAC decides; a watch of one object by its name counts as of that name."""
    method, path = request
    parts = urlsplit(path)
    query = parse_qs(parts.query)
    asked = PATH.fullmatch(parts.path)
    assert asked, f"not a resource: {path}"
    selected = re.fullmatch(r"metadata\.name=(.+)", query.get("fieldSelector", [""])[0])
    name = asked["name"] or (selected[1] if selected else None)
    verb = verb_of(method, query, asked["name"])
    return any(
        namespace in ("", asked["namespace"])
        and (asked["group"] or "") in rule["apiGroups"]
        and asked["resource"] in rule["resources"]
        and verb in rule["verbs"]
        and ("resourceNames" not in rule or name in rule["resourceNames"])
        for namespace, rule in grants
        if "resources" in rule
    )


def started(objects: list[Json], cluster: Cluster, directory: Path) -> Child:
    """picker with the args and environment of the container, but on free ports and by a kubeconfig."""
    moved = [re.sub(r"^(--(?:grpc|grpc-health|metrics)-port)=.*", r"\1=0", word) for word in picker_args(objects)]
    moved = [re.sub(r"^(--bbr-port)=.*", rf"\1={free_port()}", word) for word in moved]  # there 0 is none
    (picker,) = (each for each in containers(objects) if each["name"] == "picker")
    fields = {"metadata.namespace": NAMESPACE, "metadata.name": "picker-5d8f7c9b6d-x2x7k"}
    environment = {each["name"]: fields[each["valueFrom"]["fieldRef"]["fieldPath"]] for each in picker["env"]}
    kubeconfig = cluster.kubeconfig(directory, namespace=NAMESPACE)
    command = picker_command("serve", *moved, f"--kubeconfig={kubeconfig}")
    return Child("picker", command, directory / "picker.log", environment)


def is_serving(picker: Child, service: str) -> bool:
    """As a kubelet's probe asks."""
    ports = ports_in(picker.log_text())
    if HEALTH not in ports:
        return False
    with grpc.insecure_channel(f"127.0.0.1:{ports[HEALTH]}") as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def scraped(picker: Child, token: str) -> int:
    """As Prometheus does."""
    url = f"http://127.0.0.1:{ports_in(picker.log_text())[METRICS]}/metrics"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with contextlib.closing(refused):
            return refused.code


def probed(objects: list[Json]) -> list[str]:
    (picker,) = (each for each in containers(objects) if each["name"] == "picker")
    return [probe["grpc"]["service"] for name, probe in picker.items() if name.endswith("Probe")]


CASES: dict[str, Json] = {
    "a pool": POOL,
    "a leader": {**POOL, "replicas": 2},
    "pods by labels": PODS,
    "body-based router": {**POOL, "bodyBasedRouter": {"enabled": True}},
    "plaintext, no auth": {**POOL, "tls": {"enabled": False}, "metrics": {"auth": False}},
}


@pytest.mark.e2e
@needs_helm
@needs_kubectl
@pytest.mark.parametrize("case", CASES)
def test_picker_runs_by_it_and_asks_only_for_what_it_may(case: str, cluster: Cluster, tmp_path: Path) -> None:
    objects = render(CASES[case])
    kubectl(cluster, tmp_path, objects)
    for number in range(3):
        cluster.pod(f"chat-{number}", f"10.0.0.{number + 1}", labels={"app": "chat"}, namespace=NAMESPACE)
    before = len(cluster.requests)
    picker = started(objects, cluster, tmp_path)
    try:
        for service in probed(objects):
            picker.wait_until(lambda service=service: is_serving(picker, service), READY_S)
        cluster.reviews.tokens |= {"scraper": ("system:serviceaccount:monitoring:prometheus", ())}
        cluster.reviews.allowed.add(("system:serviceaccount:monitoring:prometheus", "get", "/metrics"))
        is_guarded = case != "plaintext, no auth"
        assert scraped(picker, "") == (401 if is_guarded else 200)
        assert scraped(picker, "scraper") == 200
    finally:
        picker.stop()
    asked = set(cluster.requests[before:])
    grants = granted(objects)
    assert sorted(request for request in asked if not is_allowed(request, grants)) == []
    assert any("/pods" in path for _, path in asked)
    assert any("reviews" in path for _, path in asked) == is_guarded
    for part, its_case in {"/leases": "a leader", "/configmaps": "body-based router"}.items():
        assert any(part in path for _, path in asked) == (case == its_case), part


def test_what_may_be_asked_is_decided_as_rbac_does() -> None:
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "watch"]}
    grants = [("a", {**rule, "resourceNames": ["mine"]})]
    leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases{}"
    for verb_path, wanted in {
        ("GET", leases.format("a", "/mine")): True,
        ("GET", leases.format("a", "/other")): False,
        ("GET", leases.format("b", "/mine")): False,
        ("GET", leases.format("a", "")): False,
        ("GET", leases.format("a", "?watch=1")): False,
        ("GET", leases.format("a", "?watch=1&fieldSelector=metadata.name%3Dmine")): True,
        ("PUT", leases.format("a", "/mine")): False,
        ("GET", "/api/v1/namespaces/a/pods"): False,
    }.items():
        assert is_allowed(verb_path, grants) == wanted, verb_path
