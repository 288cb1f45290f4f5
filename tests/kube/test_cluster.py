"""The fake API server behaves as a real one, as far as the real clients can tell: kubectl and `kubernetes`."""

import asyncio
import http.server
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client, config, watch
from kubernetes.aio import client as aio
from kubernetes.aio import config as aio_config
from kubernetes.aio import watch as aio_watch
from kubernetes.client.exceptions import ApiException

from tests.support.cluster import Cluster
from tests.support.cluster.patches import json_patch, merge, strategic
from tests.support.cluster.refusals import Refusal
from tests.support.cluster.selectors import label_selector
from tests.support.cluster.store import Store

PODS = "/api/v1/namespaces/default/pods"
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama, labels: {team: a}}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: picker, port: {number: 9002}}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  template:
    metadata: {labels: {app: llama}}
    spec:
      containers:
      - {name: vllm, image: "example.com/vllm:1", args: [--port, "8000"]}
      - {name: sidecar, image: "example.com/sidecar:1"}
"""
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1}
              colour: {type: string, default: red}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(bookmark_s=0.2) as made:
        yield made


def kubectl_of(kubeconfig: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    binary, cache = Path(sys.prefix, "bin", "kubectl"), kubeconfig.parent / "cache"
    command = [str(binary), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


class Kubectl:
    """The real kubectl."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.kubeconfig = cluster.kubeconfig(home)

    def __call__(self, *arguments: str, text: str = "", status: int = 0) -> str:
        """Its output, errors included."""
        ended = kubectl_of(self.kubeconfig, *arguments, text=text)
        assert ended.returncode == status, (arguments, ended.stdout, ended.stderr)
        return ended.stdout + ended.stderr


@pytest.fixture
def kubectl(cluster: Cluster, tmp_path: Path) -> Kubectl:
    return Kubectl(cluster, tmp_path)


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Iterator[client.ApiClient]:
    configuration = client.Configuration()
    configuration.retries = False
    config.load_kube_config(str(cluster.kubeconfig(tmp_path)), client_configuration=configuration)
    with client.ApiClient(configuration) as made:
        yield made


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


def config_map(name: str, data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": data or {}}


def refused(status: int, reason: str) -> Any:
    return pytest.raises(ApiException, match=rf'(?s)\({status}\).*"reason":"{reason}"')


# --- kubectl ---


def test_kubectl_applies_what_changed(cluster: Cluster, kubectl: Kubectl) -> None:
    text = f"{POOL}---{DEPLOYMENT}"
    assert kubectl("apply", "-f", "-", text=text).count("created") == 2
    assert kubectl("apply", "-f", "-", text=text).count("unchanged") == 2
    assert kubectl("diff", "-f", "-", text=text) == ""
    changed = text.replace("number: 8000", "number: 8001").replace("sidecar:1", "sidecar:2")
    assert kubectl("apply", "-f", "-", text=changed).count("configured") == 2
    containers = cluster.get("Deployment", "llama")["spec"]["template"]["spec"]["containers"]
    assert [each["image"] for each in containers] == ["example.com/vllm:1", "example.com/sidecar:2"]
    pool = cluster.get("InferencePool", "llama")
    assert pool["metadata"]["generation"] == 2
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"
    assert "deleted" in kubectl("delete", "-f", "-", text=changed)
    assert cluster.list("InferencePool") == []


def test_kubectl_is_told_what_a_schema_forbids(kubectl: Kubectl) -> None:
    wrong = {"number: 8000": "number: 99999", "{name: picker, port: {number: 9002}}": "{name: picker}"}
    for old, new in wrong.items():
        assert "is invalid" in kubectl("apply", "-f", "-", text=POOL.replace(old, new), status=1)
    unknown = POOL.replace("targetPorts", "colour: red, targetPorts").replace("colour: red, ", "colour: red\n  ")
    assert 'unknown field "spec.colour"' in kubectl("apply", "-f", "-", text=unknown, status=1)


def test_server_side_apply_keeps_fields_with_their_owners(cluster: Cluster, kubectl: Kubectl) -> None:
    mine, theirs = config_map("shared", {"a": "1", "b": "1"}), config_map("shared", {"a": "2"})
    kubectl("apply", "--server-side", "--field-manager=me", "-f", "-", text=yaml.dump(mine))
    said = kubectl("apply", "--server-side", "--field-manager=you", "-f", "-", text=yaml.dump(theirs), status=1)
    assert 'conflict with "me": .data.a' in said
    you = ("apply", "--server-side", "--force-conflicts", "--field-manager=you", "-f", "-")
    kubectl(*you, text=yaml.dump(theirs))
    assert cluster.get("ConfigMap", "shared")["data"] == {"a": "2", "b": "1"}
    kubectl("apply", "--server-side", "--field-manager=me", "-f", "-", text=yaml.dump(config_map("shared")))
    assert cluster.get("ConfigMap", "shared")["data"] == {"a": "2"}


def test_kubectl_lists_labels_patches_and_waits(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.pod("one", "10.0.0.1", labels={"app": "x"})
    cluster.pod("two", "10.0.0.2", labels={"app": "y"}, ready=False)
    assert "one" in kubectl("get", "pods", "-l", "app in (x)", "-o", "name")
    assert kubectl("get", "pods", "-l", "app notin (x,y)", "-o", "name") == ""
    kubectl("label", "pod", "one", "app-")
    kubectl(
        "patch",
        "pod",
        "two",
        "--type=json",
        "-p",
        '[{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]',
    )
    assert cluster.get("Pod", "one")["metadata"]["labels"] == {}
    assert cluster.get("Pod", "two")["metadata"]["annotations"] == {"a": "b"}
    assert "met" in kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=20s")
    made_ready = threading.Timer(0.1, lambda: cluster.pod("two", "10.0.0.2"))
    made_ready.start()
    assert "met" in kubectl("wait", "--for=condition=Ready", "pod/two", "--timeout=20s")
    made_ready.join()
    assert '"one" deleted' in kubectl("delete", "pod", "one")


def test_a_crd_makes_a_kind(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", text=CRD)
    kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=20s")
    widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {size: 2}}"
    kubectl("apply", "-f", "-", text=widget)
    assert kubectl("get", "wd", "w", "-o", "jsonpath={.spec.colour}") == "red"
    assert "Required value" in kubectl("apply", "-f", "-", text=widget.replace("size: 2", ""), status=1)
    kubectl("delete", "crd", "widgets.example.com")
    assert "widgets" not in kubectl("api-resources")


def test_kinds_can_be_missing(tmp_path: Path) -> None:
    with Cluster(extensions=["HTTPRoute", "InferencePool.inference.networking.k8s.io"]) as cluster:
        kinds = Kubectl(cluster, tmp_path)("api-resources", "--no-headers", "-o", "name").split()
    inference = {kind for kind in kinds if "inference" in kind or "gateway" in kind}
    assert inference == {"httproutes.gateway.networking.k8s.io", "inferencepools.inference.networking.k8s.io"}


# --- the kubernetes client ---


def test_writers_that_did_not_see_each_other_conflict(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_config_map("default", config_map("c", {"a": "1"}))
    with refused(409, "AlreadyExists"):
        core.create_namespaced_config_map("default", config_map("c"))
    seen = core.read_namespaced_config_map("c", "default")
    core.patch_namespaced_config_map("c", "default", {"data": {"a": "2"}})
    seen.data = {"a": "3"}
    with refused(409, "Conflict"):
        core.replace_namespaced_config_map("c", "default", seen)
    before = cluster.store.version
    core.patch_namespaced_config_map("c", "default", {"data": {"a": "2"}})
    assert cluster.store.version == before  # nothing changed
    with refused(404, "NotFound"):
        core.read_namespaced_config_map("d", "default")
    with refused(404, "NotFound"):
        core.create_namespaced_config_map("nowhere", config_map("c"))
    with refused(422, "Invalid"):
        core.create_namespaced_config_map("default", {"metadata": {}})


def test_leases_are_taken_by_whoever_comes_first(api: client.ApiClient) -> None:
    leases = client.CoordinationV1Api(api)
    body = client.V1Lease(metadata={"name": "l"}, spec=client.V1LeaseSpec(holder_identity="a"))
    made = leases.create_namespaced_lease("default", body)
    made.spec.holder_identity = "b"
    leases.replace_namespaced_lease("l", "default", made)
    with refused(409, "Conflict"):
        leases.replace_namespaced_lease("l", "default", made)


def test_status_is_written_apart(api: client.ApiClient, cluster: Cluster) -> None:
    where = ("inference.networking.k8s.io", "v1", "default", "inferencepools")
    custom = client.CustomObjectsApi(api)
    pool = {**yaml.safe_load(POOL), "status": {"parents": []}}
    made = custom.create_namespaced_custom_object(*where, pool)
    assert "status" not in made
    status = {"status": {"parents": [{"controllerName": "example.com/gateway"}]}, "spec": None}
    changed = custom.patch_namespaced_custom_object_status(*where, "llama", status)
    assert changed["status"] == status["status"]
    assert changed["spec"] == made["spec"]
    assert changed["metadata"]["generation"] == 1
    del changed["metadata"]["resourceVersion"]
    with refused(422, "Invalid"):
        custom.replace_namespaced_custom_object(*where, "llama", changed)


def test_finalizers_hold_a_deletion_up(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.apply(config_map("c", finalizers=["example.com/hold"]))
    core.delete_namespaced_config_map("c", "default")
    assert cluster.get("ConfigMap", "c")["metadata"]["deletionTimestamp"]
    core.patch_namespaced_config_map("c", "default", {"metadata": {"finalizers": None}})
    assert cluster.list("ConfigMap", "default") == []


def test_pages_are_of_one_moment(core: client.CoreV1Api, cluster: Cluster) -> None:
    for number in range(5):
        cluster.apply(config_map(f"c{number}"))
    first = core.list_namespaced_config_map("default", limit=2)
    assert first.metadata.remaining_item_count == 3
    cluster.delete("ConfigMap", "c2")
    cluster.apply(config_map("c9"))
    rest = core.list_namespaced_config_map("default", limit=9, _continue=first.metadata._continue)
    assert [each.metadata.name for each in first.items + rest.items] == ["c0", "c1", "c2", "c3", "c4"]
    assert rest.metadata.resource_version == first.metadata.resource_version
    exact = {"resource_version": first.metadata.resource_version, "resource_version_match": "Exact"}
    assert len(core.list_namespaced_config_map("default", **exact).items) == 5
    cluster.faults.compact()
    with refused(410, "Expired"):
        core.list_namespaced_config_map("default", _continue=first.metadata._continue)
    with refused(504, "Timeout"):
        core.list_namespaced_config_map("default", resource_version="999999")


def test_a_watch_tells_what_its_selector_selects(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.pod("old", "10.0.0.1", labels={"app": "x"})
    version = core.list_namespaced_pod("default").metadata.resource_version
    for label in ("y", "x", "x", "y", "x"):
        cluster.pod("p", "10.0.0.2", labels={"app": label, "n": str(cluster.store.version)})
    cluster.delete("Pod", "p")
    stream = watch.Watch().stream(
        core.list_namespaced_pod, "default", resource_version=version, label_selector="app=x", timeout_seconds=1
    )
    events = [(event["type"], event["object"].metadata.labels["app"]) for event in stream]
    assert events == [(kind, "x") for kind in ("ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED")]


def test_a_watch_from_the_compacted_past_is_gone(core: client.CoreV1Api, cluster: Cluster) -> None:
    version = core.list_namespaced_pod("default").metadata.resource_version
    cluster.faults.compact()
    with pytest.raises(ApiException, match="too old resource version"):
        next(watch.Watch().stream(core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=5))


def test_history_is_bounded(tmp_path: Path) -> None:
    cluster = Cluster(history=3)
    for number in range(5):
        cluster.apply(config_map("c", {"n": str(number)}))
    resource = ("", "configmaps")
    version = cluster.store.version
    assert len(cluster.store.since(resource, version - 3)) == 3
    with pytest.raises(Refusal, match="too old"):
        cluster.store.since(resource, version - 4)


def test_who_is_not_known_is_not_served(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = cluster.kubeconfig(tmp_path, token="nobody's")
    with client.ApiClient(config.load_kube_config(str(kubeconfig))) as api, refused(401, "Unauthorized"):
        client.CoreV1Api(api).list_namespaced_pod("default")


def test_what_is_forbidden(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.forbid("Pod")
    with refused(403, "Forbidden"):
        core.list_namespaced_pod("default")
    cluster.allow("Pod")
    assert core.list_namespaced_pod("default").items == []


ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [mine], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: bot}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: scraper}
rules: [{nonResourceURLs: [/metrics, /debug/*], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scraper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: scraper}
subjects: [{kind: Group, name: monitoring}]
"""


def test_roles_say_what_a_token_may(tmp_path: Path) -> None:
    with Cluster(rbac=True) as cluster:
        cluster.apply(ROLES)
        kubeconfig = cluster.kubeconfig(tmp_path, token=cluster.token("bot"))
        with client.ApiClient(config.load_kube_config(str(kubeconfig)) or client.Configuration.get_default()) as api:
            core, leases = client.CoreV1Api(api), client.CoordinationV1Api(api)
            assert core.list_namespaced_pod("default").items == []
            leases_of = {"metadata": {"name": "mine"}}
            for call in (
                lambda: core.list_pod_for_all_namespaces(),
                lambda: core.list_namespaced_pod("kube-system"),
                lambda: core.delete_namespaced_pod("a", "default"),
                lambda: core.list_namespaced_config_map("default"),
                lambda: leases.read_namespaced_lease("other", "default"),
                lambda: leases.create_namespaced_lease("default", leases_of),  # a name is not known yet
            ):
                with refused(403, "Forbidden"):
                    call()
            cluster.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **leases_of})
            assert leases.read_namespaced_lease("mine", "default").metadata.name == "mine"
            assert leases.list_namespaced_lease("default", field_selector="metadata.name=mine").items


def test_reviews(api: client.ApiClient, cluster: Cluster) -> None:
    cluster.reviews.tokens["t"] = ("scraper", ("monitoring",))
    cluster.reviews.allowed.add(("monitoring", "get", "/metrics"))
    asked = client.V1TokenReview(spec=client.V1TokenReviewSpec(token="t"))
    status = client.AuthenticationV1Api(api).create_token_review(asked).status
    assert (status.authenticated, status.user.username) == (True, "scraper")

    def may(verb: str) -> bool:
        path = client.V1NonResourceAttributes(path="/metrics", verb=verb)
        spec = client.V1SubjectAccessReviewSpec(user="scraper", groups=["monitoring"], non_resource_attributes=path)
        review = client.V1SubjectAccessReview(spec=spec)
        return bool(client.AuthorizationV1Api(api).create_subject_access_review(review).status.allowed)

    assert (may("get"), may("post")) == (True, False)
    cluster.reviews.allowed.clear()
    assert not may("get")
    cluster.apply(ROLES)
    assert (may("get"), may("post")) == (True, False)


def test_a_port_of_a_pod_is_reached_through_the_server(core: client.CoreV1Api, cluster: Cluster) -> None:
    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster.pod("p", "10.0.0.1")
        cluster.proxied["default", "p", 9090] = f"127.0.0.1:{server.server_address[1]}"
        said = core.connect_get_namespaced_pod_proxy_with_path("p:9090", "default", "metrics")
        server.shutdown()
    assert said == "/metrics"


# --- faults, and the asynchronous client ---


def test_faults_of_requests(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.faults.refuse(503, match=PODS, retry_after_s=7)
    with pytest.raises(ApiException) as refusal:
        core.list_namespaced_pod("default")
    assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (503, "7")
    for fault in (cluster.faults.drop, cluster.faults.cut_body):
        fault(match=PODS)
        with pytest.raises(Exception, match=r"aborted|Connection broken|EOF|IncompleteRead"):
            core.list_namespaced_pod("default")
    cluster.faults.wrong_json(match=PODS)
    assert core.list_namespaced_pod("default", _preload_content=False).data[:1] == b"\0"
    cluster.stop_listening()
    with pytest.raises(Exception, match=r"refused|aborted"):
        core.list_namespaced_pod("default")
    cluster.listen_again()
    assert core.list_namespaced_pod("default").items == []
    assert cluster.faults.injected == {"refuse": 1, "drop": 1, "cut_body": 1, "wrong_json": 1}


def test_what_is_not_there_is_no_status(core: client.CoreV1Api) -> None:
    custom = client.CustomObjectsApi(core.api_client)
    with pytest.raises(ApiException, match="404 page not found"):
        custom.list_namespaced_custom_object("example.com", "v1", "default", "widgets")


def test_slow_answers_come_whole(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.pod("a", "10.0.0.1")
    cluster.faults.slow(bytes_per_s=20_000)
    (pod,) = core.list_namespaced_pod("default").items
    assert pod.status.pod_ip == "10.0.0.1"
    cluster.faults.clear()


def test_it_runs_in_the_foreground(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(POOL)
    kubeconfig = tmp_path / "config"
    command = [sys.executable, "-m", "tests.support.cluster", "--kubeconfig", str(kubeconfig), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening on https://127.0.0.1:")
        said = kubectl_of(kubeconfig, "get", "infpool", "-o", "name")
        server.terminate()
        assert server.wait(20) == 0
    assert said.stdout == "inferencepool.inference.networking.k8s.io/llama\n"


@asynccontextmanager
async def lines_of(api: aio.ApiClient, cluster: Cluster, **query: Any) -> AsyncIterator[aiohttp.StreamReader]:
    """An open watch of pods, from now on: its lines."""
    version = str(cluster.store.version)
    pods = aio.CoreV1Api(api).list_namespaced_pod_without_preload_content
    response = await pods("default", watch=True, resource_version=version, **query)
    try:
        yield response.content
    finally:
        response.close()


def each_with_a_client(cluster: Cluster, directory: Path, body: Any) -> None:
    async def run() -> None:
        configuration = aio.Configuration()
        await aio_config.load_kube_config(str(cluster.kubeconfig(directory)), client_configuration=configuration)
        async with aio.ApiClient(configuration) as api:
            await body(api)

    asyncio.run(run())


def test_the_asynchronous_client_watches(cluster: Cluster, tmp_path: Path) -> None:
    async def body(api: aio.ApiClient) -> None:
        cluster.pod("a", "10.0.0.1")
        seen = []
        async with aio_watch.Watch().stream(aio.CoreV1Api(api).list_namespaced_pod, "default") as events:
            async for event in events:
                seen.append((event["type"], event["object"].metadata.name))
                if len(seen) == 1:
                    cluster.delete("Pod", "a")
                else:
                    break
        assert seen == [("ADDED", "a"), ("DELETED", "a")]

    each_with_a_client(cluster, tmp_path, body)


def test_open_watches_get_bookmarks_and_expire(cluster: Cluster, tmp_path: Path) -> None:
    async def body(api: aio.ApiClient) -> None:
        async with lines_of(api, cluster, allow_watch_bookmarks=True) as content:
            assert b'"BOOKMARK"' in await content.readline()
            faults = cluster.faults
            assert (faults.bookmark(PODS), faults.bookmark(old=True), faults.expire_watches(PODS)) == (1, 1, 1)
            said = (await content.read()).splitlines()
            assert [b'"BOOKMARK"' in line for line in said[-3:]] == [True, True, False]
            assert b'"code":410' in said[-1]

    each_with_a_client(cluster, tmp_path, body)


@pytest.mark.parametrize("in_line", [False, True])
def test_watches_are_cut(cluster: Cluster, tmp_path: Path, in_line: bool) -> None:
    async def body(api: aio.ApiClient) -> None:
        cluster.faults.cut_after(1, in_line=in_line)
        async with lines_of(api, cluster) as content:
            cluster.pod("a", "10.0.0.1")
            assert b"10.0.0.1" in await content.readline()
            cluster.pod("a", "10.0.0.2")
            with pytest.raises(aiohttp.ClientPayloadError):
                await content.read()

    each_with_a_client(cluster, tmp_path, body)


def test_watches_fall_silent_or_speak_nonsense(cluster: Cluster, tmp_path: Path) -> None:
    async def body(api: aio.ApiClient) -> None:
        async with lines_of(api, cluster) as content:
            assert cluster.faults.silence() == 1
            cluster.pod("a", "10.0.0.1")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(content.readline(), 0.1)
        cluster.faults.wrong_json(match=PODS)
        async with lines_of(api, cluster, timeout_seconds=1) as content:
            cluster.pod("a", "10.0.0.2")
            assert (await content.readline())[:1] == b"\0"
            assert await content.read() == b""  # the server ended it

    each_with_a_client(cluster, tmp_path, body)


def test_a_list_can_come_as_a_watch(cluster: Cluster, tmp_path: Path) -> None:
    async def body(api: aio.ApiClient) -> None:
        cluster.pod("a", "10.0.0.1")
        wanted = {"send_initial_events": True, "resource_version_match": "NotOlderThan", "allow_watch_bookmarks": True}
        async with lines_of(api, cluster, **wanted) as content:
            assert b'"ADDED"' in await content.readline()
            assert b'"k8s.io/initial-events-end":"true"' in await content.readline()

    each_with_a_client(cluster, tmp_path, body)


def test_large_lists_are_packed(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(20):
        cluster.apply(config_map(f"c{number}", {"text": "x" * 10_000}))

    async def body(api: aio.ApiClient) -> None:
        response = await aio.CoreV1Api(api).list_namespaced_config_map_without_preload_content("default")
        assert response.headers["Content-Encoding"] == "gzip"
        assert len((await response.json())["items"]) == 20

    each_with_a_client(cluster, tmp_path, body)


def test_random_faults_come_of_their_seed(cluster: Cluster) -> None:
    def drawn() -> list[str]:
        cluster.faults.random(7, 0.3, most=20)
        found = [cluster.faults.of_request("GET", PODS) for _ in range(100)]
        return [f"{fault.what} {fault.status}" if fault else "" for fault in found]

    first = drawn()
    assert first == drawn()
    assert len([each for each in first if each]) == 20


# --- the parts by themselves ---


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("a=1", True),
        ("a==1,b!=1", True),
        ("a in (2, 3)", False),
        ("a notin (2),!c", True),
        ("b", True),
        ("b,c", False),
        ("c notin (1)", True),
        ("a>0,a<2", True),
        ("example.com/x-y=z", True),
    ],
)
def test_label_selectors(selector: str, selected: bool) -> None:
    assert label_selector(selector)({"a": "1", "b": "", "example.com/x-y": "z"}) is selected


def test_a_selector_that_is_none_is_refused() -> None:
    with pytest.raises(Refusal, match="unable to parse"):
        label_selector("a=1,=")


def test_patches() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {"a": {"c": 2}, "d": [2]}
    steps = [{"op": "test", "path": "/a/0", "value": 1}, {"op": "add", "path": "/a/-", "value": 2}]
    steps += [{"op": "move", "from": "/a", "path": "/b"}, {"op": "remove", "path": "/b/0"}]
    assert json_patch({"a": [1]}, steps) == {"b": [2]}
    with pytest.raises(Refusal, match="test failed"):
        json_patch({"a": [2]}, steps)
    ports = {"ports": [{"containerPort": 1, "name": "x"}, {"containerPort": 2}]}
    patch = {"ports": [{"containerPort": 1, "name": "y"}, {"containerPort": 2, "$patch": "delete"}]}
    assert strategic(ports, patch) == {"ports": [{"containerPort": 1, "name": "y"}]}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.integers(0, 12))
def test_changes_since_lead_from_then_to_now(steps: list[tuple[str, bool]], begin: int) -> None:
    """A list of any moment, and the changes after it, come to the list of now."""
    resource = ("", "things")
    store = Store(lambda _: None)
    versions = [store.version]
    for name, is_there in steps:
        if is_there:
            store.put(resource, ("", name), {"metadata": {}})
        elif store.get(resource, ("", name)):
            store.remove(resource, ("", name))
        versions.append(store.version)
    start = versions[min(begin, len(versions) - 1)]
    found = store.at(resource, start)
    for change in store.since(resource, start):
        assert found.get(change.key) is change.before
        if change.now:
            found[change.key] = change.now
        else:
            del found[change.key]
    assert found == store.at(resource, store.version)
