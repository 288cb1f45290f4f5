"""Whatever goes wrong between picker and the API server: after each fault the pool is the server's again.

`PICKER_WATCH_FAULTS` says how many faults, of which each part has up to 1,000, on a cluster of its own; the seed and
the number of the one that fails are in its message. Back-offs take no time, and pages have 3 objects; all else is as it
is in service.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from picker.config.settings import KubernetesSettings
from picker.kube import reflector
from picker.kube.client import KubeClient
from picker.kube.pace import Timing
from picker.kube.watch import KubernetesWatch
from tests.support.cluster import Cluster
from tests.support.cluster.faults import EVENT_FAULTS, RANDOM_STATUSES
from tests.support.watchsink import Sink

FAULTS = int(os.environ.get("PICKER_WATCH_FAULTS", "300"))
SEED = int(os.environ.get("PICKER_WATCH_SEED", "1"))
PART = 1000

POOL = "default/pool"
PODS = "/api/v1/namespaces/default/pods"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/default/inferencepools"
OBJECTIVES = "/apis/llm-d.ai/v1alpha2/namespaces/default/inferenceobjectives"
NAMES, ADDRESSES = [f"pod-{number}" for number in range(8)], [f"10.0.0.{number}" for number in range(1, 7)]
FAST = Timing(idle_s=0.06, first_s=0.0, most_s=0.0, most_asked_s=0.0, absent_s=0.0)
NOW = ("cut", "end", "expire", "silence", "same_bookmark", "old_bookmark")
REQUESTS = ("refuse", "drop", "wrong_json", "cut_body")
TRIGGERS = ("cut", "end", "expire")


def pool(*ports: int, app: str = "model") -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": port} for port in ports]}
    spec["endpointPickerRef"] = {"name": "picker", "port": {"number": 9002}}
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "pool"},
        "spec": spec,
    }


def objective(name: str, priority: int) -> dict[str, Any]:
    spec = {"poolRef": {"group": "inference.networking.k8s.io", "name": "pool"}, "priority": priority}
    return {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": name},
        "spec": spec,
    }


class Mangler:
    """A client whose watches also say what they said before, once more or long after, and what no server should."""

    def __init__(self, client: KubeClient, seed: int) -> None:
        self.request = client.request
        self.injected = 0
        self._client, self._rng = client, random.Random(seed)
        self._said: dict[str, list[bytes]] = {}

    @asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str | int], idle_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._client.watch(path, query=query, idle_s=idle_s) as lines:
            yield self._mangled(lines, self._said.setdefault(path, []))

    async def _mangled(self, lines: AsyncIterator[bytes], said: list[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            said.append(line)
            yield line
            if self._rng.random() < MANGLED:
                self.injected += 1
                yield self._rng.choice([line, self._rng.choice(said[-50:]), *STRANGE])


STRANGE = (
    b'{"type":"ADDED","object":{"metadata":{"name":"ghost","namespace":"default","resourceVersion":"9999999"}}}',
    b'{"type":"LATER","object":{"metadata":{"name":"ghost","uid":"u","resourceVersion":"9999999"}}}',
)
MANGLED = 0.1


@asynccontextmanager
async def watching(
    cluster: Cluster, directory: Path, rng: random.Random
) -> AsyncIterator[tuple[KubernetesWatch, Sink]]:
    client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(directory)))
    settings = KubernetesSettings(pools=("pool",), pool_namespace="default")
    sink, mangler = Sink(), Mangler(client, rng.randrange(1 << 30))
    watch = KubernetesWatch(settings, mangler, sink, sleep=lambda _: asyncio.sleep(0), jitter=rng.random, timing=FAST)
    running = asyncio.create_task(watch.run())
    try:
        yield watch, sink, mangler
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.close()


# --- what the server has, and what should come of it ---


def expected(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Name and incarnation by target, worked out the slow way."""
    spec = cluster.get("InferencePool", "pool")["spec"]
    found: dict[str, tuple[tuple[str, str], str, str]] = {}
    for pod in cluster.list("Pod", "default"):
        metadata, status = pod["metadata"], pod["status"]
        ready = any((each["type"], each["status"]) == ("Ready", "True") for each in status["conditions"])
        if metadata["labels"].get("app") != spec["selector"]["matchLabels"]["app"] or not ready:
            continue
        if "deletionTimestamp" in metadata:
            continue
        restarts = sum(container["restartCount"] for container in status["containerStatuses"])
        age = metadata["creationTimestamp"], metadata["uid"]
        for rank, port in enumerate(spec["targetPorts"]):
            target = f"{status['podIP']}:{port['number']}"
            name = metadata["name"] + (f"-rank-{rank}" if len(spec["targetPorts"]) > 1 else "")
            if target not in found or found[target][0] < age:
                found[target] = age, name, f"{metadata['uid']}/{restarts}"
    return {target: found[target][1:] for target in found}


def told(sink: Sink) -> dict[str, tuple[str, str]]:
    return {target: (each.name, each.incarnation) for target, each in sink.endpoints.get(POOL, {}).items()}


def priorities(cluster: Cluster) -> dict[str, int]:
    return {
        each["metadata"]["name"]: each["spec"]["priority"]
        for each in cluster.list("InferenceObjective.llm-d.ai", "default")
    }


def told_priorities(sink: Sink) -> dict[str, int]:
    return {each.metadata.name: each.spec.priority for each in sink.objects.get(POOL, ())}  # type: ignore[union-attr]


# --- changes ---


def change(cluster: Cluster, rng: random.Random) -> None:
    """One thing that happens in a cluster."""
    name = rng.choice(NAMES)
    there = {pod["metadata"]["name"]: pod for pod in cluster.list("Pod", "default")}
    what = rng.randrange(10)
    if what == 9:
        cluster.apply(pool(*rng.choice([(8000,), (8000, 8001)]), app=rng.choice(["model", "model", "other"])))
    elif what == 8:
        cluster.apply(objective(rng.choice("ab"), rng.randrange(3)))
    elif name not in there or what < 3:
        if "deletionTimestamp" in there.get(name, {}).get("metadata", {}):
            cluster.delete("Pod", name)  # and one of its name in its place
        labels = {"app": rng.choice(["model", "model", "model", "other"])}
        cluster.pod(name, rng.choice(ADDRESSES), labels=labels, ready=rng.random() < 0.8)
    elif what < 5:
        cluster.delete("Pod", name)
    elif what == 5 and "deletionTimestamp" not in there[name]["metadata"]:
        cluster.terminate(name)
    else:
        container = there[name]["status"]["containerStatuses"][0]
        container["restartCount"] += 1
        cluster.patch("Pod", name, {"status": {"containerStatuses": [container]}})


def some_changes(cluster: Cluster, rng: random.Random, least: int = 0) -> None:
    for _ in range(rng.randint(least, 3)):
        change(cluster, rng)


# --- faults ---


def at_once(cluster: Cluster, rng: random.Random) -> None:
    what, match = rng.choice(NOW), rng.choice(["", PODS, POOLS, OBJECTIVES])
    if what.endswith("bookmark"):
        cluster.faults.bookmark(match, old=what == "old_bookmark")
    else:
        getattr(cluster.faults, "silence" if what == "silence" else f"{what}_watches")(match)


def at_an_event(cluster: Cluster, rng: random.Random) -> None:
    cluster.faults.at_event(rng.choice(EVENT_FAULTS), after=rng.randrange(2), match=rng.choice(["", PODS]))


def of_a_request(cluster: Cluster, rng: random.Random) -> None:
    what, match = rng.choice(REQUESTS), rng.choice(["", PODS, PODS, POOLS])
    times = rng.choice([1, 1, 2, 5])
    if what == "refuse":
        status = rng.choice((401, *RANDOM_STATUSES))
        cluster.faults.refuse(status, times, match=match, after=rng.randrange(2), retry_after_s=rng.choice([0, 1]))
    else:
        getattr(cluster.faults, what)(times, match=match)
    some_changes(cluster, rng)
    if rng.random() < 0.3:
        cluster.faults.compact()
    getattr(cluster.faults, f"{rng.choice(TRIGGERS)}_watches")(match)


def of_time(cluster: Cluster, rng: random.Random) -> None:
    """The server has forgotten all that the watches know."""
    cluster.faults.cut_watches()
    some_changes(cluster, rng)
    cluster.faults.compact()


def of_speed(cluster: Cluster, rng: random.Random) -> None:
    cluster.faults.slow(rng.choice([20_000.0, 200_000.0]))
    cluster.faults.cut_watches(PODS)
    some_changes(cluster, rng)


def of_the_server(cluster: Cluster, rng: random.Random) -> None:
    cluster.stop_listening()
    some_changes(cluster, rng)
    cluster.listen_again()


FAULTY: tuple[tuple[Callable[[Cluster, random.Random], None], int], ...] = (
    (at_once, 30),
    (at_an_event, 30),
    (of_a_request, 30),
    (of_time, 8),
    (of_speed, 1),
    (of_the_server, 1),
)


@pytest.fixture
def cluster() -> Any:
    with Cluster(bookmark_s=0.03, tls=False) as made:
        made.apply(pool(8000))
        yield made


async def play(cluster: Cluster, directory: Path, seed: int, faults: int) -> None:
    rng = random.Random(seed)
    async with watching(cluster, directory, rng) as (watch, sink, mangler):
        await sink.until(lambda: sink.synced == [True])
        for number in range(faults):
            some_changes(cluster, rng)
            (fault,) = rng.choices([each for each, _ in FAULTY], [weight for _, weight in FAULTY])
            fault(cluster, rng)
            some_changes(cluster, rng, least=fault is at_an_event)
            try:
                await sink.until(lambda: is_told(sink, cluster))
            except TimeoutError as problem:
                said = f"seed {seed}, fault {number}, {fault.__name__}: {told(sink)} is not {expected(cluster)}"
                raise AssertionError(f"{said}; {watch.figures()}") from problem
            cluster.faults.bytes_per_s = 0.0
        counted = sum(sum(each.faults.values()) for each in watch.figures())
        injected = cluster.faults.injected + Counter(mangled=mangler.injected)
        print(f"{faults} faults, {sum(injected.values())} injected, {counted} counted by the watch: {dict(injected)}")
        assert sum(injected.values()) >= faults
        assert sum(each.stale_events for each in watch.figures()) > 0
        assert counted >= faults
        assert sink.synced == [True]
        assert not any("bug" in each.faults for each in watch.figures())


def is_told(sink: Sink, cluster: Cluster) -> bool:
    return told(sink) == expected(cluster) and told_priorities(sink) == priorities(cluster)


# Unraisable is what the server does with a connection that comes as it stops to listen.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", range(-(-FAULTS // PART)))
def test_the_pool_is_the_servers_after_each_fault(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(reflector, "PAGE", 3)
    asyncio.run(play(cluster, tmp_path, SEED + part, min(PART, FAULTS - part * PART)))
