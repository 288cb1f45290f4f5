"""The cluster as it is told: every mode, every kind, against a server that speaks HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from picker.config.settings import KubernetesSettings
from picker.kube.client import KubeClient
from picker.kube.pace import Timing
from picker.kube.watch import KindFigures, KubernetesWatch
from picker.types import Endpoint
from tests.support.cluster import Cluster
from tests.support.watchsink import Sink

V1, OLD, LLM_D = "inference.networking.k8s.io", "inference.networking.x-k8s.io", "llm-d.ai"
POOL = "default/pool"
QUICK = Timing(first_s=0.01, most_s=0.05, absent_s=0.02)


def pool(name: str = "pool", *ports: int, app: str = "m", picker: str = "epp", **metadata: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": app}}, "endpointPickerRef": {"name": picker}}
    spec["targetPorts"] = [{"number": port} for port in ports or (8000,)]
    spec["endpointPickerRef"]["port"] = {"number": 9002}
    return {"apiVersion": f"{V1}/v1", "kind": "InferencePool", "metadata": {"name": name, **metadata}, "spec": spec}


def beside(kind: str, name: str, group: str = LLM_D, pool: str = "pool", of: str = V1, **spec: Any) -> dict[str, Any]:
    """An object for a pool."""
    ref = {"group": of, "kind": "InferencePool", "name": pool}
    manifest = {"apiVersion": f"{group}/v1alpha2", "kind": kind, "metadata": {"name": name}}
    return {**manifest, "spec": {"poolRef": ref, **spec}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(tls=False) as made:
        yield made


@dataclass
class Watched:
    watch: KubernetesWatch
    sink: Sink

    async def until(self, condition: Callable[[], object]) -> None:
        await self.sink.until(condition)

    def figures(self, kind: str) -> KindFigures:
        return next(each for each in self.watch.figures() if each.kind == kind)


@asynccontextmanager
async def watching(
    cluster: Cluster, directory: Path, known: Mapping[str, Sequence[Endpoint]] | None = None, **settings: Any
) -> AsyncIterator[Watched]:
    client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(directory)))
    sink = Sink(known)
    chosen = KubernetesSettings(**{"pool_namespace": "default", **settings})
    watch = KubernetesWatch(chosen, client, sink, known=known, timing=QUICK)
    running = asyncio.create_task(watch.run())
    try:
        yield Watched(watch, sink)
        assert not running.done()
        assert not any("bug" in each.faults for each in watch.figures())
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.close()


def played(test: Callable[..., Any]) -> Callable[[Cluster, Path], None]:
    """Makes a test of a coroutine function."""

    def run(cluster: Cluster, tmp_path: Path) -> None:
        asyncio.run(test(cluster, tmp_path))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# --- a pool by name ---


@played
async def test_a_pool_is_synced_with_its_pods(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("pool", 8000, 8001))
    cluster.pod("a", "10.0.0.1", labels={"app": "m", "llm-d.ai/role": "decode"})
    cluster.pod("b", "10.0.0.2", labels={"app": "other"})
    cluster.pod("c", "10.0.0.3", labels={"app": "m"}, ready=False)
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        assert it.sink.pools == {POOL: ("epp.default",)}
        assert it.sink.names() == {"10.0.0.1:8000": "a-rank-0", "10.0.0.1:8001": "a-rank-1"}
        assert {each.labels["llm-d.ai/role"] for each in it.sink.endpoints[POOL].values()} == {"decode"}
        assert len(it.sink.changes) == 1


@played
async def test_pods_come_change_and_go(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        cluster.pod("a", "10.0.0.1", labels={"app": "m"}, ready=False)
        cluster.pod("b", "fd00::1", labels={"app": "m"})
        await it.until(lambda: it.sink.names() == {"[fd00::1]:8000": "b"})
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        await it.until(lambda: len(it.sink.names()) == 2)
        before = it.sink.endpoints[POOL]["10.0.0.1:8000"]
        container = {"name": "server", "ready": True, "restartCount": 1}
        cluster.patch("Pod", "a", {"status": {"containerStatuses": [container]}})
        await it.until(lambda: it.sink.endpoints[POOL]["10.0.0.1:8000"].key != before.key)
        cluster.pod("a", "10.0.0.1", labels={"app": "m"}, annotations={"llm-d.ai/active-ports": ""})
        await it.until(lambda: it.sink.names() == {"[fd00::1]:8000": "b"})
        cluster.patch("Pod", "b", {"metadata": {"labels": {"app": "n"}}})
        await it.until(lambda: it.sink.names() == {})
        cluster.patch("Pod", "b", {"metadata": {"labels": {"app": "m"}}})
        await it.until(lambda: it.sink.names() == {"[fd00::1]:8000": "b"})
        cluster.terminate("b")
        await it.until(lambda: it.sink.names() == {})


@played
async def test_what_changes_nothing_is_not_told(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        cluster.patch("Pod", "a", {"metadata": {"annotations": {"checked": "just now"}}})
        cluster.pod("b", "10.0.0.2", labels={"app": "m"})
        await it.until(lambda: len(it.sink.names()) == 2)
        assert [len(come) for _, _, come in it.sink.changes] == [1, 1]


@played
async def test_another_selector_keeps_the_old_pods_until_the_new_are_known(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool(app="m"))
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    cluster.pod("b", "10.0.0.2", labels={"app": "n"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        cluster.faults.refuse(503, times=3, match="/api/v1/namespaces/default/pods")
        cluster.apply(pool(app="n"))
        await it.until(lambda: it.sink.names() == {"10.0.0.2:8000": "b"})
        (_, gone, come) = it.sink.changes[-1]
        assert ([each.name for each in gone], [each.name for each in come]) == (["a"], ["b"])
        assert it.figures("pods").faults["unavailable"] >= 2  # the watch of the old ones may have had one
        cluster.pod("c", "10.0.0.3", labels={"app": "m"})
        cluster.pod("d", "10.0.0.4", labels={"app": "n"})
        await it.until(lambda: it.sink.names() == {"10.0.0.2:8000": "b", "10.0.0.4:8000": "d"})
        assert it.sink.synced == [True]


@played
async def test_other_ports_count_at_once(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        lists = it.figures("pods").lists
        cluster.apply(pool("pool", 8000, 9000))
        await it.until(lambda: it.sink.names() == {"10.0.0.1:8000": "a-rank-0", "10.0.0.1:9000": "a-rank-1"})
        assert it.figures("pods").lists == lists
        cluster.apply(pool("pool", 8000, 9000, picker="other"))
        await it.until(lambda: it.sink.pools == {POOL: ("other.default",)})


@played
async def test_a_pool_that_is_deleted_is_empty_until_it_comes_again(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        cluster.delete("InferencePool", "pool")
        await it.until(lambda: it.sink.synced == [True, False])
        assert (it.sink.names(), list(it.sink.pools)) == ({}, [POOL])
        cluster.pod("b", "10.0.0.2", labels={"app": "n"})
        cluster.apply(pool(app="n", picker="new"))
        await it.until(lambda: it.sink.synced == [True, False, True])
        assert (it.sink.names(), it.sink.pools) == ({"10.0.0.2:8000": "b"}, {POOL: ("new.default",)})


@played
async def test_a_pool_that_is_not_there_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        cluster.apply(pool("another"))
        cluster.apply(pool())
        await it.until(lambda: it.sink.synced == [True])
        assert list(it.sink.pools) == [POOL]


@played
async def test_a_pool_of_the_retired_group(cluster: Cluster, tmp_path: Path) -> None:
    spec = {"selector": {"app": "m"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
    manifest = {"apiVersion": f"{OLD}/v1alpha2", "kind": "InferencePool", "metadata": {"name": "pool"}, "spec": spec}
    cluster.apply(manifest)
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    cluster.apply(beside("InferenceModel", "model", OLD, of=OLD, modelName="llama", criticality="Critical"))
    async with watching(cluster, tmp_path, pools=("pool",), pool_group=OLD) as it:
        await it.until(lambda: it.sink.synced == [True] and it.sink.objects.get(POOL))
        assert (it.sink.names(), it.sink.pools) == ({"10.0.0.1:8000": "a"}, {POOL: ("epp.default",)})


# --- several pools ---


@played
async def test_several_pools_of_several_namespaces(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("one"))
    cluster.apply(pool("two", app="n", namespace="other"))
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    cluster.pod("b", "10.0.0.2", labels={"app": "n"}, namespace="other")
    cluster.pod("c", "10.0.0.3", labels={"app": "n"})
    async with watching(cluster, tmp_path, pools=("one", "other/two")) as it:
        await it.until(lambda: it.sink.synced == [True])
        assert it.sink.pools == {"default/one": ("epp.default",), "other/two": ("epp.other",)}
        assert (it.sink.names("default/one"), it.sink.names("other/two")) == (
            {"10.0.0.1:8000": "a"},
            {"10.0.0.2:8000": "b"},
        )
        cluster.delete("InferencePool", "one")
        await it.until(lambda: not it.sink.names("default/one"))
        assert it.sink.names("other/two") == {"10.0.0.2:8000": "b"}
        assert it.sink.synced == [True]
        cluster.delete("InferencePool", "two", "other")
        await it.until(lambda: it.sink.synced == [True, False])


@played
async def test_one_of_several_that_is_missing_does_not_hold_up_the_others(cluster: Cluster, tmp_path: Path) -> None:
    async with watching(cluster, tmp_path, pools=("one", "two")) as it:
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        cluster.apply(pool("one"))
        await it.until(lambda: it.sink.synced == [True])
        assert it.sink.names("default/one") == {"10.0.0.1:8000": "a"}
        cluster.apply(pool("two"))
        await it.until(lambda: it.sink.names("default/two"))
        assert it.sink.synced == [True]


@played
async def test_pools_chosen_by_labels_come_and_go(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("one", labels={"team": "a"}))
    cluster.apply(pool("two", labels={"team": "b"}))
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pool_selector="team in (a, c)") as it:
        await it.until(lambda: it.sink.synced == [True])
        assert (list(it.sink.pools), it.sink.names("default/one")) == (["default/one"], {"10.0.0.1:8000": "a"})
        cluster.patch("InferencePool", "two", {"metadata": {"labels": {"team": "c"}}})
        await it.until(lambda: it.sink.names("default/two"))
        cluster.delete("InferencePool", "one")
        await it.until(lambda: list(it.sink.pools) == ["default/two"])
        cluster.patch("InferencePool", "two", {"metadata": {"labels": {"team": "z"}}})
        await it.until(lambda: not it.sink.pools)
        assert it.sink.synced == [True]


@played
async def test_no_pool_at_all_may_be_what_labels_choose(cluster: Cluster, tmp_path: Path) -> None:
    async with watching(cluster, tmp_path, pool_selector="team=a") as it:
        await it.until(lambda: it.sink.synced == [True])
        assert it.sink.pools == {}


# --- without pools ---


@played
async def test_pods_by_labels_need_no_pool(cluster: Cluster, tmp_path: Path) -> None:
    cluster.pod("a", "10.0.0.1", labels={"app": "m", "tier": "x"})
    cluster.pod("b", "10.0.0.2", labels={"app": "m"})
    choice = {"endpoint_selector": "app=m,tier in (x, y)", "target_ports": (8000, 9000), "deployment": "qwen"}
    cluster.apply(beside("InferenceObjective", "mine", pool="qwen", priority=3))
    async with watching(cluster, tmp_path, **choice) as it:
        await it.until(lambda: it.sink.synced == [True] and it.sink.objects.get("default/qwen"))
        assert it.sink.pools == {"default/qwen": ()}
        assert it.sink.names("default/qwen") == {"10.0.0.1:8000": "a-rank-0", "10.0.0.1:9000": "a-rank-1"}


def test_a_cluster_may_have_none_of_the_kinds(tmp_path: Path) -> None:
    async def play(cluster: Cluster) -> None:
        async with watching(cluster, tmp_path, endpoint_selector="app=m", target_ports=(8000,)) as it:
            await it.until(lambda: it.sink.synced == [True] and it.sink.objects == {"default/picker": ()})
            assert it.figures("inferenceobjectives.llm-d.ai").age_s is None

    with Cluster(tls=False, extensions=False) as cluster:
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        asyncio.run(play(cluster))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"pools": ("/",)}, {"endpoint_selector": "a=b"}):
        with pytest.raises(ValueError, match=r"neither|target ports"):
            KubernetesWatch(KubernetesSettings(pool_namespace="n", **wrong), object(), Sink())  # type: ignore[arg-type]


# --- what is beside the pools ---


def names(sink: Sink, pool: str = POOL) -> list[tuple[str, str]]:
    return sorted((type(each).__name__, each.metadata.name) for each in sink.objects[pool])


@played
async def test_objects_are_told_to_their_pool(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.apply(pool("two"))
    rules = [{"targets": [{"modelRewrite": "v2"}]}]
    cluster.apply(beside("InferenceObjective", "high", priority=5))
    cluster.apply(beside("InferenceObjective", "theirs", pool="two"))
    cluster.apply(beside("InferenceObjective", "nobodys", pool="three"))
    cluster.apply(beside("InferenceObjective", "retired", of=OLD))
    cluster.apply(beside("InferenceModelRewrite", "alias", rules=rules))
    cluster.apply(beside("InferenceModel", "model", OLD, modelName="llama"))
    async with watching(cluster, tmp_path, pools=("pool", "two")) as it:
        await it.until(lambda: it.sink.synced == [True] and len(it.sink.objects) == 2)
        ours = [("InferenceModel", "model"), ("InferenceModelRewrite", "alias"), ("InferenceObjective", "high")]
        assert names(it.sink) == ours
        assert names(it.sink, "default/two") == [("InferenceObjective", "theirs")]
        cluster.delete("InferenceObjective.llm-d.ai", "high")
        await it.until(lambda: names(it.sink) == ours[:2])
        cluster.apply(pool("two", app="n"))
        cluster.delete("InferencePool", "pool")
        await it.until(lambda: not it.sink.names())
        cluster.pod("again", "10.0.0.9", labels={"app": "m"})
        cluster.apply(pool())
        await it.until(lambda: it.sink.names())
        assert names(it.sink) == ours[:2]


def test_of_two_groups_the_newer_counts_and_it_is_said(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        cluster.apply(pool())
        cluster.apply(beside("InferenceObjective", "old", OLD))
        cluster.apply(beside("InferenceObjective", "new", LLM_D))
        async with watching(cluster, tmp_path, pools=("pool",)) as it:
            await it.until(lambda: POOL in it.sink.objects)
            assert names(it.sink) == [("InferenceObjective", "new")]
            cluster.apply(beside("InferenceObjective", "newer", LLM_D))
            await it.until(lambda: len(names(it.sink)) == 2)

    asyncio.run(play())
    assert caplog.text.count(f"1 of InferenceObjective of {OLD} in namespace default have no effect") == 1


def test_a_group_that_is_not_installed_does_not_count_until_it_is(tmp_path: Path) -> None:
    async def play(cluster: Cluster) -> None:
        cluster.apply(pool())
        cluster.apply(beside("InferenceObjective", "old", OLD))
        async with watching(cluster, tmp_path, pools=("pool",)) as it:
            await it.until(lambda: POOL in it.sink.objects and it.sink.synced == [True])
            assert names(it.sink) == [("InferenceObjective", "old")]
            cluster.kinds.add(newer)
            cluster.apply(beside("InferenceObjective", "new", LLM_D))
            await it.until(lambda: names(it.sink) == [("InferenceObjective", "new")])

    kinds = [f"InferencePool.{V1}", f"InferenceObjective.{OLD}"]
    with Cluster(tls=False) as whole:
        newer = whole.kinds.named(f"InferenceObjective.{LLM_D}")
    with Cluster(tls=False, extensions=kinds) as cluster:
        asyncio.run(play(cluster))


@played
async def test_kinds_that_are_not_allowed_hold_nothing_up(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    for group in (LLM_D, OLD):
        for kind in ("InferenceObjective", "InferenceModelRewrite"):
            cluster.forbid(f"{kind}.{group}")
    cluster.forbid("InferenceModel")
    cluster.forbid("ConfigMap")
    async with watching(cluster, tmp_path, pools=("pool",), base_models=True) as it:
        await it.until(lambda: it.sink.synced == [True] and it.sink.objects == {POOL: ()})
        assert it.sink.names() == {"10.0.0.1:8000": "a"}
        cluster.allow("ConfigMap")
        cluster.apply(config_map("one", "llama", "- english"))
        await it.until(lambda: it.sink.base_models == {"llama": "llama", "english": "llama"})


def config_map(name: str, base: str, adapters: str) -> dict[str, Any]:
    labels = {"inference.networking.k8s.io/bbr-managed": "true"}
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"baseModel": base, "adapters": adapters},
    }


@played
async def test_base_models_are_followed_if_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(config_map("one", "llama", "- english"))
    cluster.apply(config_map("wrong", "", ""))
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "another"}, "data": {}})
    async with watching(cluster, tmp_path, pool_selector="a=b", base_models=True) as it:
        await it.until(lambda: it.sink.base_models == {"llama": "llama", "english": "llama"})
        assert it.figures("configmaps").unusable == 1
        cluster.apply(config_map("two", "qwen", "- french"))
        await it.until(lambda: it.sink.base_models and it.sink.base_models.get("french") == "qwen")
        cluster.delete("ConfigMap", "one")
        await it.until(lambda: it.sink.base_models == {"qwen": "qwen", "french": "qwen"})


# --- restarts, limits, age ---


@played
async def test_after_a_restart_only_the_difference_is_told(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    for number in range(1, 4):
        cluster.pod(f"pod-{number}", f"10.0.0.{number}", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as first:
        await first.until(lambda: first.sink.synced == [True])
        known = {POOL: tuple(first.sink.endpoints[POOL].values())}
    cluster.delete("Pod", "pod-1")
    cluster.pod("pod-4", "10.0.0.4", labels={"app": "m"})
    async with watching(cluster, tmp_path, known, pools=("pool",)) as second:
        await second.until(lambda: second.sink.synced == [True])
        ((_, gone, come),) = second.sink.changes
        assert ([each.name for each in gone], [each.name for each in come]) == (["pod-1"], ["pod-4"])
    cluster.delete("InferencePool", "pool")
    known = {POOL: tuple(second.sink.endpoints[POOL].values())}
    async with watching(cluster, tmp_path, known, pools=("pool",)) as third:
        await third.until(lambda: third.sink.names() == {})
        assert third.sink.synced == [False]


@played
async def test_a_pool_that_went_during_a_restart_is_closed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool("one", labels={"team": "a"}))
    known: dict[str, tuple[Endpoint, ...]] = {"default/gone": (), "default/one": ()}
    async with watching(cluster, tmp_path, known, pool_selector="team=a") as it:
        await it.until(lambda: it.sink.synced == [True])
        assert list(it.sink.endpoints) == ["default/one"]


@played
async def test_what_is_too_much_is_kept_out_and_counted(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True] and it.sink.objects == {POOL: ()})
        told, it.sink.set_objects = it.sink.set_objects, refuses  # type: ignore[method-assign]
        cluster.apply(beside("InferenceObjective", "one"))
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        cluster.pod("b", "10.0.0.2", labels={"app": "m"})
        await it.until(lambda: len(it.sink.names()) == 2)
        it.sink.set_objects = told  # type: ignore[method-assign]
        cluster.apply(beside("InferenceObjective", "two"))
        await it.until(lambda: len(it.sink.objects[POOL]) == 2)
        assert it.watch.kept_out == 1


def refuses(pool: str, objects: Any) -> None:
    raise OverflowError("at most none")


@played
async def test_while_the_server_is_away_all_stays_and_grows_old(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(pool())
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})
    async with watching(cluster, tmp_path, pools=("pool",)) as it:
        await it.until(lambda: it.sink.synced == [True])
        cluster.stop_listening()
        await until(lambda: it.figures("pods").faults.get("connection", 0) > 3)
        assert it.figures("pods").age_s > 0.0
        assert (it.sink.names(), it.sink.synced) == ({"10.0.0.1:8000": "a"}, [True])
        cluster.pod("b", "10.0.0.2", labels={"app": "m"})
        cluster.listen_again()
        await it.until(lambda: len(it.sink.names()) == 2)
        assert it.figures("pods").age_s == 0.0
        assert it.figures("pods").lists == 1


async def until(condition: Callable[[], object]) -> None:
    """For what tells nobody."""
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
