"""The whole picker against an API server: what it waits for, what it survives, what it tells."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from picker import app
from picker.app import App
from picker.config.settings import (
    AdminSettings,
    ElectionSettings,
    KubernetesSettings,
    ListenSettings,
    ScrapeSettings,
    ServeSettings,
)
from picker.pools import Pools
from tests.support import messages as m
from tests.support.cluster import Cluster
from tests.support.running import COMPLETION, Running, running, until
from tests.support.streams import GrpcStream, within_deadline

MIB = 1 << 20
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "QUIET_S", 0.01)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def pool(name: str, *, namespace: str = "default", app: str = "", **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": app or name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": f"{name}-epp", "port": {"number": 9002}},
        },
    }


def rewrite(name: str, of: str) -> dict[str, Any]:
    return {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "poolRef": {"name": of},
            "rules": [{"matches": [{"model": {"value": "m"}}], "targets": [{"modelRewrite": "m-v2"}]}],
        },
    }


def objective(name: str, of: str, priority: int) -> dict[str, Any]:
    return {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"poolRef": {"name": of}, "priority": priority},
    }


def settings(kubeconfig: Path, **kubernetes: Any) -> ServeSettings:
    listen = ListenSettings(
        bind_address="127.0.0.1",
        grpc_port=0,
        grpc_health_port=0,
        metrics_port=0,
        secure_serving=False,
        grpc_max_recv_msg_bytes=16 * MIB,
        grpc_max_send_msg_bytes=16 * MIB,
    )
    given: dict[str, Any] = {"pool_namespace": "default", "kubeconfig": str(kubeconfig), **kubernetes}
    return ServeSettings(
        listen=listen,
        admin=AdminSettings(endpoint_auth=False),
        scrape=ScrapeSettings(enabled=False),
        kubernetes=KubernetesSettings(**given),
    )


def serving(given: ServeSettings, *, wait: bool = True) -> contextlib.AbstractAsyncContextManager[Running]:
    made = App(given)
    return running(made, made.health, wait=wait)


async def targets(picker: Running) -> list[str]:
    return sorted(view["target"] for view in json.loads((await picker.get("/debug/endpoints"))[1]))


async def has(picker: Running, *wanted: str) -> bool:
    return await targets(picker) == sorted(wanted)


async def picked(picker: Running) -> str:
    stream, reply = await picker.pick()
    await stream.finish()
    return str(dict(reply.dynamic_metadata["envoy.lb"])["x-gateway-destination-endpoint"])


@within_deadline
async def test_a_pool_is_served_as_the_cluster_says(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat"))
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    cluster.pod("other", "10.0.0.9", labels={"app": "other"})
    async with serving(settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))) as picker:
        assert await picked(picker) == "10.0.0.1:8000"
        cluster.pod("b", "10.0.0.2", labels={"app": "chat"})
        await until(lambda: has(picker, "10.0.0.1:8000", "10.0.0.2:8000"))
        cluster.pod("a", "10.0.0.1", labels={"app": "chat"}, ready=False)
        await until(lambda: has(picker, "10.0.0.2:8000"))
        cluster.apply(rewrite("next", "chat"))
        cluster.apply(objective("urgent", "chat", 10))
        await until(lambda: rewritten(picker))
        await until(lambda: prioritised(picker, "urgent", 10))
        page = (await picker.get("/metrics"))[1]
        assert 'picker_watch_events_total{kind="pods"} 2.0' in page
        assert 'inference_pool_ready_pods{name="chat"} 1.0' in page
        (age_s,) = re.findall(r'picker_watch_age_seconds{kind="pods"} (.*)', page)
        assert float(age_s) < 60


async def rewritten(picker: Running) -> bool:
    """Whether the next request is."""
    stream, _ = await picker.pick()
    await stream.finish()
    return 'target_model="m-v2"' in (await picker.get("/metrics"))[1]


async def prioritised(picker: Running, objective: str, priority: int) -> bool:
    """Whether a request that names the objective has that priority."""
    stream = picker.stream()
    headers = {"x-gateway-inference-objective": objective}
    await stream.send(m.request_headers("/v1/completions", headers=headers), m.request_body(COMPLETION))
    await stream.receive(2)
    await stream.finish()
    (decision,) = json.loads((await picker.get("/debug/decisions?limit=1"))[1])
    return (decision["objective"], decision["priority"]) == (objective, priority)


@within_deadline
async def test_it_asks_for_traffic_when_it_knows_its_pool_and_not_before(cluster: Cluster, tmp_path: Path) -> None:
    async with serving(settings(cluster.kubeconfig(tmp_path), pools=("default/chat",)), wait=False) as picker:
        await until(lambda: bool(cluster.requests))
        assert await picker.health() == NOT_SERVING
        assert await picker.get("/readyz") == (503, "not ready\n")
        stream = picker.stream()
        await stream.send(m.request_headers(end_of_stream=True))
        (reply,) = await stream.receive()
        assert reply.immediate_response.status.code == 503
        cluster.apply(pool("chat"))
        await picker.readiness.wait_ready()
        assert await picker.health() == SERVING
        cluster.delete("InferencePool", "chat")
        await until(lambda: not picker.readiness.is_ready)


@within_deadline
async def test_what_is_known_stays_while_the_api_server_is_away(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat"))
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    async with serving(settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))) as picker:
        await until(lambda: has(picker, "10.0.0.1:8000"))
        cluster.stop_listening()
        assert picker.app.control is not None
        first = picker.app.control.pid
        os.kill(first, signal.SIGKILL)  # and who watches dies too
        await until(lambda: picker.app.control.pid not in (0, first))
        assert await picker.get("/readyz") == (200, "ready\n")
        assert await picked(picker) == "10.0.0.1:8000"
        cluster.pod("b", "10.0.0.2", labels={"app": "chat"})
        cluster.delete("Pod", "a")
        cluster.listen_again()
        await until(lambda: has(picker, "10.0.0.2:8000"))


@within_deadline
async def test_pods_are_served_without_a_pool(cluster: Cluster, tmp_path: Path) -> None:
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    given = settings(
        cluster.kubeconfig(tmp_path),
        endpoint_selector="app in (chat, talk)",
        target_ports=(8000, 8001),
        deployment="picker",
    )
    async with serving(given) as picker:
        await until(lambda: has(picker, "10.0.0.1:8000", "10.0.0.1:8001"))


async def asked_as(picker: Running, authority: str) -> str:
    """Who is picked for a stream that calls picker so; "" if it is refused."""
    options = [("grpc.default_authority", authority)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.app.ports['ext_proc']}", options=options) as channel:
        stream = GrpcStream(channel)
        await stream.send(m.request_headers(end_of_stream=True))
        (reply,) = await stream.receive()
        await stream.finish()
    found = dict(reply.dynamic_metadata["envoy.lb"]) if "envoy.lb" in reply.dynamic_metadata else {}
    return str(found.get("x-gateway-destination-endpoint", ""))


@within_deadline
async def test_pools_come_and_go_as_labels_say_and_authorities_choose(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat", team="a"))
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    cluster.pod("b", "10.0.0.2", labels={"app": "code"})
    async with serving(settings(cluster.kubeconfig(tmp_path), pool_selector="team=a")) as picker:
        assert await asked_as(picker, "chat-epp.default.svc.cluster.local:9002") == "10.0.0.1:8000"
        assert await asked_as(picker, "code-epp.default.svc:9002") == ""
        cluster.apply(pool("code", team="a"))

        async def is_served() -> bool:
            return await asked_as(picker, "code-epp.default.svc:9002") == "10.0.0.2:8000"

        await until(is_served)
        assert await asked_as(picker, "chat-epp.default.svc:9002") == "10.0.0.1:8000"
        page = (await picker.get("/metrics"))[1]
        assert 'inference_pool_ready_pods{name="default/code"} 1.0' in page
        cluster.apply(pool("code", team="b"))

        async def is_gone() -> bool:
            return not await is_served()

        await until(is_gone)
        assert await asked_as(picker, "chat-epp.default.svc:9002") == "10.0.0.1:8000"
        assert picker.readiness.is_ready


@within_deadline
async def test_a_pool_too_many_is_counted(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "Pools", functools.partial(Pools, most=1))
    cluster.apply(pool("chat", team="a"))
    cluster.apply(pool("code", team="a"))
    async with serving(settings(cluster.kubeconfig(tmp_path), pool_selector="team=a")) as picker:
        await until(lambda: picker.counts("picker_pools_refused_total", 1))
        assert len(picker.app.pools) == 1


@within_deadline
async def test_of_two_that_stand_for_election_one_asks_for_traffic(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat"))
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    given = settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))
    given = dataclasses.replace(given, election=ElectionSettings(enabled=True))
    async with serving(given) as leader:
        async with serving(given, wait=False) as follower:
            await until(lambda: has(follower, "10.0.0.1:8000"))  # it watches all the same
            assert (leader.readiness.is_ready, follower.readiness.is_ready) == (True, False)
            assert await leader.counts("picker_leading", 1)
            assert await follower.counts("picker_leading", 0)
            leader.stop.set()
            await leader.task
            await follower.readiness.wait_ready()
            assert await picked(follower) == "10.0.0.1:8000"


@within_deadline
async def test_who_has_nothing_to_serve_leads_nobody(cluster: Cluster, tmp_path: Path) -> None:
    given = settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))
    given = dataclasses.replace(given, election=ElectionSettings(enabled=True))
    async with serving(given, wait=False) as picker:
        await until(lambda: cluster.open_watches("/apis/inference.networking.k8s.io") > 0)
        assert not cluster.list("Lease")
        cluster.apply(pool("chat"))
        await picker.readiness.wait_ready()
        assert cluster.list("Lease")
        assert "picker_election_terms_total 1.0\n" in (await picker.get("/metrics"))[1]


@within_deadline
async def test_one_that_drains_stands_no_more_whatever_becomes_of_its_process(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat"))
    cluster.pod("a", "10.0.0.1", labels={"app": "chat"})
    given = settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))
    given = dataclasses.replace(given, election=ElectionSettings(enabled=True))
    async with serving(given) as leader, serving(given, wait=False) as follower:
        await until(lambda: has(leader, "10.0.0.1:8000"))
        stream, _ = await leader.pick()
        os.kill(leader.app.control.pid, signal.SIGSTOP)  # it will not hear of it
        leader.stop.set()
        await until(lambda: not leader.readiness.is_ready)
        os.kill(leader.app.control.pid, signal.SIGKILL)
        await follower.readiness.wait_ready()
        assert not leader.task.done()
        await stream.finish()


@within_deadline
async def test_metrics_are_for_those_whom_the_cluster_grants_them(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("chat"))
    cluster.reviews.tokens |= {"prom": ("prometheus", ()), "other": ("jane", ())}
    cluster.reviews.allowed.add(("prometheus", "get", "/metrics"))
    given = settings(cluster.kubeconfig(tmp_path), pools=("default/chat",))
    async with serving(dataclasses.replace(given, admin=AdminSettings())) as picker:
        assert (await picker.get("/metrics"))[0] == 401
        status, said = await picker.get("/metrics", Authorization="Bearer other")
        assert (status, said.partition(" needs")[0]) == (403, "forbidden: jane")
        assert (await picker.get("/metrics", Authorization="Bearer prom"))[0] == 200
        assert (await picker.get("/debug/endpoints", Authorization="Bearer prom"))[0] == 403
        assert await picker.get("/readyz") == (200, "ready\n")
