"""An address that changes hands: from the API server's events to the engine, none inherits what another had."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from picker.types import Endpoint
from tests.kube.test_watch import Watched, pool, watching
from tests.support.cluster import Cluster
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat

TARGET = "10.0.0.1:8000"
PROMPT = chat("p" * 8192)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(tls=False) as made:
        made.apply(pool())
        yield made


def bound(it: Watched) -> Rig:
    """An engine whose pool is what the sink is told, from now on."""
    rig = Rig(HEAD, list(it.sink.endpoints["default/pool"].values()))
    told = it.sink.change_endpoints

    def change(pool: str, gone: Sequence[Endpoint], come: Sequence[Endpoint]) -> None:
        rig.pool.change(gone=[endpoint.target for endpoint in gone], come=come)
        told(pool, gone, come)

    it.sink.change_endpoints = change  # type: ignore[method-assign]
    return rig


def view(rig: Rig) -> dict[str, Any]:
    return next(each for each in rig.engine.endpoints(rig.now_ns) if each["target"] == TARGET)


def replaced(cluster: Cluster) -> None:
    cluster.delete("Pod", "a")
    cluster.pod("b", "10.0.0.1", labels={"app": "m"})


def of_one_name(cluster: Cluster) -> None:
    cluster.delete("Pod", "a")
    cluster.pod("a", "10.0.0.1", labels={"app": "m"})


def restarted(cluster: Cluster) -> None:
    container = {"name": "server", "ready": True, "restartCount": 1}
    cluster.patch("Pod", "a", {"status": {"containerStatuses": [container]}})


def while_it_ends(cluster: Cluster) -> None:
    cluster.terminate("a")
    cluster.pod("b", "10.0.0.1", labels={"app": "m"})


def unseen(change: Callable[[Cluster], None]) -> Callable[[Cluster], None]:
    """While the watch is broken, and the server forgets what it could have told."""

    def run(cluster: Cluster) -> None:
        cluster.stop_listening()
        change(cluster)
        cluster.faults.compact()
        cluster.listen_again()

    return run


WAYS = {
    "another pod": replaced,
    "another pod of its name": of_one_name,
    "its container restarted": restarted,
    "another pod while it ends": while_it_ends,
    "another pod, unseen": unseen(replaced),
    "another pod of its name, unseen": unseen(of_one_name),
    "its container restarted, unseen": unseen(restarted),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_has_the_address_next_inherits_nothing(cluster: Cluster, tmp_path: Path, way: str) -> None:
    async def play() -> None:
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        async with watching(cluster, tmp_path, pools=("pool",)) as it:
            await it.until(lambda: it.sink.names())
            rig = bound(it)
            session, _ = rig.send(PROMPT)
            before = view(rig)
            assert rig.engine.index_blocks > 0
            assert (before["requests"], before["picks"]) == (1, 1)
            key = it.sink.endpoints["default/pool"][TARGET].key
            WAYS[way](cluster)
            await it.until(lambda: TARGET in it.sink.names() and it.sink.endpoints["default/pool"][TARGET].key != key)
            after = view(rig)
            assert rig.engine.index_blocks == 0
            assert (after["requests"], after["picks"], after["prefill_tokens"]) == (0, 0, 0)
            assert after["generation"] != before["generation"]
            rig.finish(session)  # releases what was booked on the old one, not on this
            assert view(rig)["requests"] == 0

    asyncio.run(play())


def test_a_change_of_labels_keeps_what_is_known(cluster: Cluster, tmp_path: Path) -> None:
    async def play() -> None:
        cluster.pod("a", "10.0.0.1", labels={"app": "m"})
        async with watching(cluster, tmp_path, pools=("pool",)) as it:
            await it.until(lambda: it.sink.names())
            rig = bound(it)
            rig.finish(rig.send(PROMPT)[0])
            blocks = rig.engine.index_blocks
            cluster.patch("Pod", "a", {"metadata": {"labels": {"zone": "x"}}})
            await it.until(lambda: "zone" in it.sink.endpoints["default/pool"][TARGET].labels)
            assert (rig.engine.index_blocks, view(rig)["picks"]) == (blocks, 1)

    asyncio.run(play())
