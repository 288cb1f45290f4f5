"""What is read of objects, and what becomes of those that are not as they should be."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.kube import objects
from picker.kube.objects import Pod, PoolSpec

READERS: dict[str, Callable[[bytes], Any]] = {
    name: getattr(objects, name) for name in objects.__all__ if name.startswith("read_")
}


def read(what: str, of: Any) -> Any:
    return READERS[f"read_{what}"](json.dumps(of).encode())


def a_pod(**status: Any) -> dict[str, Any]:
    """As an API server writes one, shortened."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "server-7d9-x2x",
            "namespace": "models",
            "uid": "a-b-c",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-22T08:00:00Z",
            "labels": {"app": "server", "llm-d.ai/role": "decode"},
            "annotations": {"other": "thing", "inference.networking.k8s.io/active-ports": "8000"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "server-7d9"}],
            "managedFields": [{"fieldsV1": {"f:metadata": {}}}],
        },
        "spec": {"containers": [{"name": "server", "env": [{"name": "A", "value": "B"}]}]},
        "status": {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "server", "restartCount": 2}, {"name": "side", "restartCount": 1}],
            "initContainerStatuses": [{"name": "init", "restartCount": 5}],
        }
        | status,
    }


def test_a_pod() -> None:
    assert read("pod", a_pod()) == Pod(
        namespace="models",
        name="server-7d9-x2x",
        uid="a-b-c",
        address="10.1.2.3",
        is_ready=True,
        restarts=3,
        created="2026-11-22T08:00:00Z",
        labels={"app": "server", "llm-d.ai/role": "decode"},
        active_ports="8000",
    )


def test_the_newer_annotation_goes_before_the_older() -> None:
    pod = a_pod()
    pod["metadata"]["annotations"]["llm-d.ai/active-ports"] = "8001"
    assert read("pod", pod).active_ports == "8001"
    del pod["metadata"]["annotations"]
    assert read("pod", pod).active_ports is None


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [{"type": "Ready", "status": "False"}]},
        {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        {"conditions": [{"type": "ContainersReady", "status": "True"}]},
        {"conditions": []},
        {"conditions": None},
        {"phase": "Failed"},
        {"phase": "Succeeded"},
    ],
)
def test_pods_that_do_not_serve(status: dict[str, Any]) -> None:
    assert not read("pod", a_pod(**status)).is_ready


def test_a_pod_that_ends_does_not_serve() -> None:
    pod = a_pod()
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T09:00:00Z"
    assert not read("pod", pod).is_ready


@pytest.mark.parametrize("status", [None, {}, {"podIP": None, "containerStatuses": None, "phase": None}])
def test_a_pod_may_have_nothing_yet(status: Any) -> None:
    pod = a_pod()
    pod["status"] = status
    pod["metadata"]["labels"] = None
    made = read("pod", pod)
    assert (made.address, made.is_ready, made.restarts, made.labels) == ("", False, 0, {})


def v1(**spec: Any) -> dict[str, Any]:
    members = {
        "selector": {"matchLabels": {"app": "server", "tier": "a"}},
        "targetPorts": [{"number": 8000}, {"number": 8001}],
        "endpointPickerRef": {"name": "picker", "port": {"number": 9002}, "failureMode": "FailOpen"},
    }
    return {"metadata": {"name": "pool", "namespace": "models", "generation": 3}, "spec": members | spec}


def v1alpha2(**spec: Any) -> dict[str, Any]:
    members = {"selector": {"app": "server"}, "targetPortNumber": 8000, "extensionRef": {"name": "picker"}}
    return {"metadata": {"name": "pool", "namespace": "models"}, "spec": members | spec}


def test_a_pool() -> None:
    made = read("pool", v1())
    assert made == PoolSpec(
        namespace="models",
        name="pool",
        ports=(8000, 8001),
        labels={"app": "server", "tier": "a"},
        authorities=("picker.models",),
    )
    assert (made.id, made.selector) == ("models/pool", "app=server,tier=a")


def test_a_pool_of_the_retired_group() -> None:
    assert read("old_pool", v1alpha2()) == PoolSpec(
        namespace="models", name="pool", ports=(8000,), labels={"app": "server"}, authorities=("picker.models",)
    )


@pytest.mark.parametrize("ref", [None, {"name": "x", "kind": "Thing"}, {"name": "x", "group": "example.com"}, {}])
def test_who_is_no_service_has_no_authority(ref: Any) -> None:
    assert read("pool", v1(endpointPickerRef=ref)).authorities == ()


@pytest.mark.parametrize(
    ("kind", "of", "what"),
    [
        ("pool", v1(selector={}), "its selector is empty"),
        ("pool", v1(targetPorts=[]), "0 target ports are given; there are 1 to 8"),
        ("pool", v1(targetPorts=[{"number": n} for n in range(1, 10)]), "9 target ports are given"),
        ("pool", v1(targetPorts=[{"number": 70000}]), "target port 70000 is not between"),
        ("pool", v1(targetPorts="8000"), "Expected `array`"),
        ("old_pool", v1alpha2(selector={}), "its selector is empty"),
        ("old_pool", v1alpha2(targetPortNumber=0), "target port 0 is not between"),
        ("pod", {"metadata": {}}, "missing required field"),
        ("pod", [], "Expected `object`"),
        ("objective", {"metadata": {"name": "n"}, "spec": {"priority": 1}}, "poolRef"),
        ("objective", {"metadata": {"name": "n"}, "spec": {"poolRef": {"name": "p"}, "priority": 2**31}}, "priority"),
        (
            "rewrite",
            {"metadata": {"name": "n"}, "spec": {"poolRef": {"name": "p"}, "rules": [{"targets": []}]}},
            ">= 1",
        ),
        ("model", {"metadata": {"name": "n"}, "spec": {"poolRef": {"name": "p"}, "modelName": ""}}, "1 to 256 bytes"),
        ("claim", {"metadata": {"name": "n"}}, "not for the body-based router"),
    ],
)
def test_what_cannot_be_used_says_why(kind: str, of: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(kind, of)


def test_equal_ports_count_once() -> None:
    assert read("pool", v1(targetPorts=[{"number": 8000}, {"number": 8000}])).ports == (8000,)


def test_what_a_newer_server_adds_is_passed_over() -> None:
    spec = {"poolRef": {"name": "p", "later": 1}, "priority": -1, "later": {}}
    metadata = {"name": "n", "namespace": "m", "creationTimestamp": "2026-11-22T08:00:00Z", "uid": "u"}
    made = read("objective", {"metadata": metadata, "spec": spec, "status": {"conditions": []}})
    assert (made.metadata.name, made.spec.priority) == ("n", -1)
    assert made.metadata.creationTimestamp == datetime(2026, 11, 22, 8, tzinfo=UTC)


def test_base_models() -> None:
    labels = {"inference.networking.k8s.io/bbr-managed": "true"}
    data = {"baseModel": "llama", "adapters": "- english-bot\n- spanish-bot\n"}
    made = read("claim", {"metadata": {"name": "n", "namespace": "m", "labels": labels}, "data": data})
    assert (made.source, made.base, made.adapters) == ("m/n", "llama", ("english-bot", "spanish-bot"))


# --- whatever the JSON ---

MEMBERS = st.sampled_from(
    """
    metadata name namespace uid resourceVersion creationTimestamp deletionTimestamp labels annotations spec status phase
    podIP conditions type containerStatuses restartCount selector matchLabels targetPorts number endpointPickerRef kind
    targetPortNumber extensionRef poolRef rules matches targets priority modelName criticality data baseModel adapters
    llm-d.ai/active-ports inference.networking.k8s.io/bbr-managed
    """.split()
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["True", "Ready", "true", "10.0.0.1"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize("reader", READERS)
@given(of=st.dictionaries(MEMBERS, VALUES, max_size=5))
@settings(max_examples=100)
def test_any_structure_is_read_or_refused(reader: str, of: Any) -> None:
    for each in (of, {"metadata": {"name": "n", "uid": "u"}, **of}, {"metadata": {"name": "n"}, "spec": of}):
        try:
            READERS[reader](json.dumps(each).encode())
        except ValueError as problem:
            assert str(problem)


def test_the_readers_are_of_msgspec_or_refuse_as_it_does() -> None:
    for reader in READERS.values():
        with pytest.raises(msgspec.DecodeError):
            reader(b"{")
