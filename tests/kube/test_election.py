"""Elections over a fake API server: who leads, when another takes over, and what each fault does."""

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from picker.config.settings import ElectionSettings
from picker.kube.client import KubeClient
from picker.kube.election import Election, lease_name
from picker.kube.lease import new_identity
from tests.support.cluster import Cluster
from tests.support.polling import DEADLINE_S, until

SHORT = ElectionSettings(enabled=True, lease_s=1.0, renew_deadline_s=0.7, retry_s=0.1)
LONG = ElectionSettings(enabled=True, lease_s=900.0, renew_deadline_s=600.0, retry_s=300.0)
"""Nothing happens by the clock while a test lasts."""

NAME = lease_name("default", "pool")
LEASES = "/apis/coordination.k8s.io"


class Replica:
    """A candidate, and what it told its data plane."""

    def __init__(self, election_settings: ElectionSettings, client: KubeClient, **more: Any) -> None:
        self.told: list[tuple[int, int]] = []  # when, until
        self.election = Election(
            election_settings, client, namespace="default", name=NAME, on_lead=self._tell, jitter=lambda: 0.5, **more
        )
        self.task = asyncio.ensure_future(self.election.run())

    def _tell(self, until_ns: int) -> None:
        self.told.append((time.monotonic_ns(), until_ns))

    def leads(self) -> bool:
        return bool(self.told) and self.told[-1][1] > time.monotonic_ns()

    def terms(self) -> Iterator[tuple[int, int]]:
        """From when until when its data plane thought that it leads."""
        for (at_ns, until_ns), (next_ns, _) in itertools.pairwise([*self.told, (1 << 62, 0)]):
            if until_ns > at_ns:
                yield at_ns, min(until_ns, next_ns)


class Replicas:
    """Those of one cluster. All are ended with it."""

    def __init__(self, cluster: Cluster, kubeconfig: Path) -> None:
        self.cluster = cluster
        self.all: list[Replica] = []
        self._kubeconfig = kubeconfig
        self._stack = contextlib.AsyncExitStack()

    async def start(self, election_settings: ElectionSettings, **more: Any) -> Replica:
        client = await KubeClient.connect(kubeconfig=str(self._kubeconfig))
        self._stack.push_async_callback(client.close)
        replica = Replica(election_settings, client, **more)
        self.all.append(replica)
        return replica

    async def end(self) -> None:
        tasks = [replica.task for replica in self.all]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._stack.aclose()

    @property
    def lease(self) -> dict[str, Any]:
        return dict(self.cluster.get("Lease", NAME)["spec"])

    @property
    def holder(self) -> str:
        return str(self.lease.get("holderIdentity", ""))

    def never_two(self) -> None:
        terms = sorted(term for replica in self.all for term in replica.terms())
        for (_, end_ns), (begin_ns, _) in itertools.pairwise(terms):
            assert end_ns <= begin_ns, "two led at one time"


@contextlib.asynccontextmanager
async def replicas_of(directory: Path) -> AsyncIterator[Replicas]:
    with Cluster() as cluster:
        replicas = Replicas(cluster, cluster.kubeconfig(directory))
        try:
            yield replicas
        finally:
            await replicas.end()
        replicas.never_two()


def election(test: Callable[..., Any]) -> Callable[..., None]:
    """Makes a test of a coroutine function that is given `Replicas`."""

    def run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def body() -> None:
            async with replicas_of(tmp_path) as replicas:
                await (test(replicas, caplog) if "caplog" in test.__code__.co_varnames else test(replicas))

        with caplog.at_level(logging.INFO, "picker.kube"):
            asyncio.run(asyncio.wait_for(body(), 2 * DEADLINE_S))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@election
async def test_one_alone_leads_and_renews(replicas: Replicas) -> None:
    one = await replicas.start(SHORT)
    await until(one.leads)
    first = replicas.lease
    assert first["holderIdentity"] == one.election.identity == one.election.leader
    assert first["leaseDurationSeconds"] == 1
    assert first["leaseTransitions"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["renewTime"])
    await until(lambda: len(one.told) > 3)
    last = replicas.lease
    assert last == {**first, "renewTime": last["renewTime"]}
    assert last["renewTime"] > first["renewTime"]
    assert one.election.is_leading
    assert (one.election.terms_led, one.election.faults) == (1, {})
    assert all(
        until_ns - at_ns <= SHORT.renew_deadline_s * 1e9 for at_ns, until_ns in one.told
    )  # from when it was asked


@election
async def test_what_is_released_is_taken_at_once(replicas: Replicas) -> None:
    """Nobody waits for a clock here: all times are minutes."""
    one = await replicas.start(LONG)
    await until(one.leads)
    others = [await replicas.start(LONG) for _ in range(2)]
    await until(lambda: replicas.cluster.open_watches(LEASES) == 3)
    await until(lambda: all(other.election.leader == one.election.identity for other in others))
    await one.election.release()
    assert not one.election.is_leading
    assert one.told[-1][1] == 0
    await until(lambda: any(other.leads() for other in others))
    await one.task  # it returns
    leader = next(other for other in others if other.leads())
    assert replicas.holder == leader.election.identity
    assert replicas.lease["leaseTransitions"] == 1
    await leader.election.release()
    await until(lambda: sum(other.leads() for other in others) == 1)
    await others[1 - others.index(leader)].election.release()
    assert "holderIdentity" not in replicas.lease
    assert replicas.lease["leaseDurationSeconds"] == 1


@election
async def test_a_leader_that_dies_is_followed_when_its_lease_has_run_out(replicas: Replicas) -> None:
    one = await replicas.start(SHORT)
    await until(one.leads)
    two = await replicas.start(SHORT)
    await until(lambda: two.election.leader == one.election.identity)
    one.task.cancel()
    await asyncio.wait([one.task])
    one.told = [each for each in one.told if each[1]]  # dead: nobody told its data plane that it is over
    await until(two.leads)


@election
async def test_a_run_under_the_same_name_goes_on_at_once(replicas: Replicas) -> None:
    identity = new_identity()
    one = await replicas.start(LONG, identity=identity)
    await until(one.leads)
    one.task.cancel()
    await asyncio.wait([one.task])
    again = await replicas.start(LONG, identity=identity)
    await until(again.leads)
    assert replicas.lease["leaseTransitions"] == 0


@election
async def test_a_follower_that_stops_changes_nothing(replicas: Replicas) -> None:
    one = await replicas.start(LONG)
    await until(one.leads)
    two = await replicas.start(LONG)
    await until(lambda: two.election.leader)
    before = replicas.lease
    await two.election.release()
    assert replicas.lease == before
    assert two.told == []


@election
async def test_who_never_ran_can_be_released(replicas: Replicas) -> None:
    one = await replicas.start(LONG)
    await one.election.release()
    await one.election.release()
    await one.task


@election
async def test_an_api_server_that_is_away_ends_the_lead_and_no_more(replicas: Replicas, caplog: Any) -> None:
    one = await replicas.start(SHORT)
    await until(one.leads)
    two = await replicas.start(SHORT)
    await until(lambda: two.election.leader)
    replicas.cluster.stop_listening()
    await until(lambda: one.told[-1][1] == 0)
    assert one.told[-1][0] >= one.told[-2][1]  # it led until then
    assert not two.told
    replicas.cluster.listen_again()
    await until(lambda: one.leads() or two.leads())
    assert one.election.faults["connection"] > 0
    said = [record.getMessage() for record in caplog.records]
    assert sum("has a fault, trying on: doing=asking" in line for line in said) <= 3  # told once, not with every try
    await until(lambda: any("works again: doing=asking" in record.getMessage() for record in caplog.records))


@election
async def test_what_cannot_be_released_runs_out(replicas: Replicas, caplog: Any) -> None:
    one = await replicas.start(SHORT)
    await until(one.leads)
    replicas.cluster.stop_listening()
    await one.election.release()
    assert one.told[-1][1] == 0
    assert any("could not be released" in record.getMessage() for record in caplog.records)


@election
async def test_without_the_rights_it_says_which(replicas: Replicas, caplog: Any) -> None:
    replicas.cluster.forbid("Lease")
    one = await replicas.start(SHORT)
    await until(lambda: one.election.faults["403"] > 4)
    wanted = (
        "grant picker's ServiceAccount, by a Role in namespace default: "
        'apiGroups ["coordination.k8s.io"] resources ["leases"] verbs ["get", "watch", "create", "update"]'
    )
    said = [record.getMessage() for record in caplog.records if wanted in record.getMessage()]
    assert 1 <= len(said) <= 2  # asking and watching
    replicas.cluster.allow("Lease")
    await until(one.leads)


@election
async def test_a_lease_that_is_deleted_is_made_again_by_its_holder(replicas: Replicas) -> None:
    one = await replicas.start(LONG)
    await until(one.leads)
    two = await replicas.start(LONG)
    await until(lambda: two.election.leader)
    await until(lambda: replicas.cluster.open_watches(LEASES) == 2)
    replicas.cluster.delete("Lease", NAME)
    await until(lambda: replicas.cluster.list("Lease"))
    assert replicas.holder == one.election.identity
    assert not two.told
    assert one.election.terms_led == 1


@election
async def test_a_lease_that_somebody_takes_is_lost(replicas: Replicas) -> None:
    one = await replicas.start(LONG)
    await until(one.leads)
    await until(lambda: replicas.cluster.open_watches(LEASES) == 1)
    replicas.cluster.patch("Lease", NAME, {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 1}})
    await until(lambda: one.told[-1][1] == 0)
    await until(one.leads)  # when that has run out
    assert one.election.terms_led == 2
    assert replicas.lease["leaseTransitions"] == 1


@election
async def test_what_others_write_beside_stays(replicas: Replicas) -> None:
    one = await replicas.start(SHORT)
    await until(one.leads)
    replicas.cluster.patch("Lease", NAME, {"metadata": {"labels": {"a": "b"}}, "spec": {"strategy": "x"}})
    count = len(one.told)
    await until(lambda: len(one.told) > count + 2)
    assert replicas.cluster.get("Lease", NAME)["metadata"]["labels"] == {"a": "b"}
    assert replicas.lease["strategy"] == "x"
    assert (one.election.terms_led, one.election.faults) == (1, {})


def test_each_fault_of_a_request_is_overcome(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(_each_fault(tmp_path), 2 * DEADLINE_S))


async def _each_fault(directory: Path) -> None:
    async with replicas_of(directory) as replicas:
        faults = replicas.cluster.faults
        one = await replicas.start(SHORT)
        await until(one.leads)
        for inject in (
            lambda: faults.refuse(409, match=LEASES, method="PUT"),
            lambda: faults.refuse(404, match=LEASES, method="PUT"),
            lambda: faults.refuse(500, match=LEASES),
            lambda: faults.refuse(429, match=LEASES, retry_after_s=1),
            lambda: faults.drop(match=LEASES),
            lambda: faults.wrong_json(match=LEASES),
            lambda: faults.cut_body(match=LEASES),
        ):
            count = sum(faults.injected.values())
            inject()
            await until(lambda count=count: sum(faults.injected.values()) > count)
            told = len(one.told)
            await until(lambda told=told: len(one.told) > told and one.leads())
        assert replicas.lease["leaseTransitions"] == 0


@pytest.mark.parametrize("fault", ["cut", "end", "expire", "silence"])
def test_whatever_becomes_of_a_watch_what_is_released_is_taken(tmp_path: Path, fault: str) -> None:
    async def body() -> None:
        async with replicas_of(tmp_path) as replicas:
            one = await replicas.start(SHORT)
            await until(one.leads)
            two = await replicas.start(SHORT)
            await until(lambda: two.election.leader)
            await until(lambda: replicas.cluster.open_watches(LEASES) == 2)
            found = getattr(replicas.cluster.faults, {"silence": "silence"}.get(fault, f"{fault}_watches"))(LEASES)
            assert found == 2
            await one.election.release()
            await until(two.leads)

    asyncio.run(asyncio.wait_for(body(), 2 * DEADLINE_S))


@election
async def test_answers_that_are_slow_keep_nobody_from_leading(replicas: Replicas) -> None:
    replicas.cluster.faults.slow(20_000)  # some 20 ms for a Lease
    one = await replicas.start(SHORT)
    await until(one.leads)
    count = len(one.told)
    await until(lambda: len(one.told) > count + 2)
    assert one.election.terms_led == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_at_random_never_make_two(tmp_path: Path, seed: int) -> None:
    async def body() -> None:
        async with replicas_of(tmp_path) as replicas:
            for _ in range(3):
                await replicas.start(SHORT)
            replicas.cluster.faults.random(seed, 0.4, match=LEASES)
            await until(lambda: sum(replicas.cluster.faults.injected.values()) > 60)
            replicas.cluster.faults.clear()
            await until(lambda: sum(each.leads() for each in replicas.all) == 1)
            await until(
                lambda: any(each.leads() and replicas.holder == each.election.identity for each in replicas.all)
            )

    asyncio.run(asyncio.wait_for(body(), 2 * DEADLINE_S))


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lease_name("prod", "qwen") == "epp-prod-qwen.gateway-api-inference-extension.sigs.k8s.io"
    monkeypatch.setenv("POD_NAME", "picker-0")
    one, two = new_identity(), new_identity()
    assert one.startswith("picker-0_")
    assert one != two
    monkeypatch.delenv("POD_NAME")
    assert len(new_identity().rpartition("_")[0]) > 0


def test_times_that_cannot_work(tmp_path: Path) -> None:
    async def body() -> None:
        async with replicas_of(tmp_path) as replicas:
            with pytest.raises(ValueError, match="must be longer than"):
                await replicas.start(ElectionSettings(lease_s=10.0, renew_deadline_s=10.0))

    asyncio.run(body())
