"""The controller against a fake API server: makes true what is decided, survives, yields to people and to others."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from picker.errors import UsageError
from picker.kube.client import KubeClient
from picker.rollout.byhand import finish, status
from picker.rollout.controller import Controller, Ended, TakenError
from picker.rollout.figures import NOTHING, Figures
from picker.rollout.machine import Phase, Plan, Sight
from picker.rollout.record import PREFIX, Record, read_record
from picker.rollout.store import Store
from tests.rollout.objects import ADAPTERS, PLAN, pool_ref, rewrite, route, target
from tests.support.cluster import Cluster

GOOD = (Figures(requests=90), Figures(requests=10))
BAD = (Figures(requests=90), Figures(requests=10, errors=9))
PATH = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/llm"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(server: Cluster) -> Cluster:
    server.apply(route([pool_ref("old")], [pool_ref("other")]))
    server.apply(rewrite(target("review-v1")))
    return server


class Script:
    """Metrics that show what the test says, and time that passes when the controller sleeps."""

    def __init__(self, *sights: tuple[Figures | None, Figures | None]) -> None:
        self.sights = list(sights)
        self.now = 0.0
        self.at_look: dict[int, Callable[[], object]] = {}
        self.looks = 0
        self.totals = NOTHING, NOTHING

    async def look(self, elapsed_s: float) -> Sight:
        self.looks += 1
        self.at_look.get(self.looks, lambda: None)()
        if self.looks == 1:
            return Sight(elapsed_s=0.0, old=NOTHING, new=NOTHING)
        old, new = self.sights.pop(0) if len(self.sights) > 1 else self.sights[0]
        return Sight(elapsed_s=elapsed_s, old=old, new=new, problem="gone")

    async def nap(self, seconds: float) -> None:
        await self.let_pass(seconds)

    async def let_pass(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def waits_for(self, other: "Script") -> None:
        """Both have one time: what takes longer than a look takes as many looks of the other."""
        own = self.let_pass

        async def let_pass(seconds: float) -> None:
            await (other.pass_by(seconds) if seconds > PLAN.check_s else own(seconds))

        self.let_pass = let_pass  # type: ignore[method-assign]

    async def pass_by(self, seconds: float) -> None:
        """As long as it takes whoever sleeps here."""
        until = self.now + seconds
        await wait_for(lambda: self.now > until)


def run(cluster: Cluster, tmp_path: Path, body: Callable[[KubeClient], Coroutine[Any, Any, Any]]) -> Any:
    async def connected() -> Any:
        client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(tmp_path)))
        try:
            return await asyncio.wait_for(body(client), 30)
        finally:
            await client.close()

    return asyncio.run(connected())


def controller(client: KubeClient, script: Script, plan: Plan = PLAN, name: str = "me", **more: Any) -> Controller:
    store = Store(client, plan.kind, "default", "llm" if plan.kind == "HTTPRoute" else "review")
    return Controller(store, script, plan, name, clock=lambda: script.now, sleep=script.nap, **more)  # type: ignore[arg-type]


def roll(cluster: Cluster, tmp_path: Path, script: Script, plan: Plan = PLAN, name: str = "me", **more: Any) -> Record:
    """Begins, or goes on with what there is, whatever its phase."""
    there = read_record(cluster.get("HTTPRoute", "llm")) if plan is PLAN else None
    more = {"goes_on": there is not None, "again": True, **more}
    found: Record = run(cluster, tmp_path, lambda client: controller(client, script, plan, name, **more).run())
    return found


def weights(cluster: Cluster) -> list[tuple[str, int | None]]:
    refs = cluster.get("HTTPRoute", "llm")["spec"]["rules"][0]["backendRefs"]
    return [(ref["name"], ref.get("weight")) for ref in refs]


def targets(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.get("InferenceModelRewrite", "review")["spec"]["rules"][0]["targets"]
    return found


def kept(cluster: Cluster) -> Record:
    record = read_record(cluster.get("HTTPRoute", "llm"))
    assert record is not None
    return record


def test_a_good_rollout_reaches_all_of_the_traffic(cluster: Cluster, tmp_path: Path) -> None:
    seen: list[int] = []
    record = roll(cluster, tmp_path, Script(GOOD), say=lambda each: seen.append(each.state.share))
    assert (record.state.phase, sorted(set(seen))) == (Phase.COMPLETED, [10, 50, 100])
    assert weights(cluster) == [("old", 0), ("new", 100)]
    assert kept(cluster) == replace(record, holder=None)
    assert cluster.get("HTTPRoute", "llm")["spec"]["rules"][1]["backendRefs"][0]["name"] == "other"


def test_a_bad_one_is_rolled_back_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    record = roll(cluster, tmp_path, Script(*[GOOD] * 14, BAD, BAD))
    assert record.state.phase is Phase.ROLLED_BACK
    assert record.state.reason.startswith("at 50 %: error rate")
    assert weights(cluster) == [("old", 1), ("new", 0)]
    assert cluster.get("HTTPRoute", "llm")["metadata"]["annotations"][f"{PREFIX}phase"] == "rolled-back"


def test_adapters_are_rolled_out_and_back(cluster: Cluster, tmp_path: Path) -> None:
    roll(cluster, tmp_path, Script(GOOD), ADAPTERS)
    assert targets(cluster) == [target("review-v2", weight=100)]
    cluster.apply(rewrite(target("review-v1")))
    roll(cluster, tmp_path, Script(*[GOOD] * 14, BAD, BAD), ADAPTERS)
    assert targets(cluster) == [target("review-v1")]


class Killed(BaseException):
    """As kill -9: nothing is cleaned up."""


def killed_at(cluster: Cluster, tmp_path: Path, look: int, name: str = "me") -> Script:
    def die() -> None:
        raise Killed

    script = Script(GOOD)
    script.at_look[look] = die
    with pytest.raises(Killed):
        roll(cluster, tmp_path, script, name=name)
    return script


@pytest.mark.parametrize("look", [2, 13, 14, 20, 30])
def test_one_that_is_killed_is_gone_on_with(cluster: Cluster, tmp_path: Path, look: int) -> None:
    killed_at(cluster, tmp_path, look)
    left = kept(cluster)
    assert left.state.phase is Phase.PROGRESSING
    assert left.holder is not None
    first: list[Record] = []
    script = Script(GOOD)
    record = roll(cluster, tmp_path, script, name="another", say=first.append)
    assert (first[0].state.step, first[0].started) == (left.state.step, left.started)
    assert first[0].state.watched_s == left.state.watched_s
    assert (record.state.phase, weights(cluster)) == (Phase.COMPLETED, [("old", 0), ("new", 100)])


def test_the_one_before_is_given_time_to_show_that_it_lives(cluster: Cluster, tmp_path: Path) -> None:
    killed_at(cluster, tmp_path, 5)
    script = Script(GOOD)
    script.at_look[2] = lambda: pytest.fail("it looked") if script.now < 30 else None
    assert roll(cluster, tmp_path, script, name="another").state.phase is Phase.COMPLETED


def test_a_second_controller_is_refused_while_the_first_lives(cluster: Cluster, tmp_path: Path) -> None:
    async def both(client: KubeClient) -> None:
        one, other = Script(GOOD), Script(GOOD)
        first = asyncio.ensure_future(controller(client, one, replace(PLAN, every_s=1e9), "first").run())
        await wait_for(lambda: one.looks > 3)
        other.waits_for(one)
        with pytest.raises(TakenError, match="first runs this rollout"):
            await controller(client, other, PLAN, "second", goes_on=True).run()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    run(cluster, tmp_path, both)
    assert kept(cluster).holder is None  # let go
    assert killed_at(cluster, tmp_path, 2, "third").now == PLAN.check_s  # it did not wait for a sign of life


async def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing sets an event
        await asyncio.sleep(0)


def test_of_two_that_begin_at_once_one_wins(cluster: Cluster, tmp_path: Path) -> None:
    async def both(client: KubeClient) -> list[Any]:
        scripts = Script(GOOD), Script(GOOD)
        runs = [
            asyncio.ensure_future(controller(client, script, replace(PLAN, every_s=1e9), name).run())
            for script, name in zip(scripts, "ab", strict=True)
        ]
        for script, other in zip(scripts, reversed(scripts), strict=True):
            script.waits_for(other)
        done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        await finish(Store(client, "HTTPRoute", "default", "llm"), Phase.COMPLETED)
        assert len(done) == 1
        return await asyncio.gather(*runs, return_exceptions=True)

    outcomes = run(cluster, tmp_path, both)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Record", "TakenError"]


def test_weights_that_somebody_else_sets_hold_it(cluster: Cluster, tmp_path: Path) -> None:
    def meddle() -> None:
        rules = cluster.get("HTTPRoute", "llm")["spec"]["rules"]
        rules[0]["backendRefs"][1]["weight"] = 70
        cluster.patch("HTTPRoute", "llm", {"spec": {"rules": rules}})

    script = Script(GOOD)
    script.at_look[5] = meddle
    record = roll(cluster, tmp_path, script)
    assert record.state.phase is Phase.HELD
    assert "the weights were changed" in record.state.reason
    assert "default/new 70" in record.state.reason
    assert weights(cluster) == [("old", 90), ("new", 70)]
    again = roll(cluster, tmp_path, Script(GOOD), name="another")  # the command asks for --again before it comes here
    assert again.state.phase is Phase.COMPLETED


def test_weights_that_were_changed_while_nobody_ran_it_hold_it_too(cluster: Cluster, tmp_path: Path) -> None:
    killed_at(cluster, tmp_path, 5)
    rules = cluster.get("HTTPRoute", "llm")["spec"]["rules"]
    rules[0]["backendRefs"].pop()
    cluster.patch("HTTPRoute", "llm", {"spec": {"rules": rules}})
    assert roll(cluster, tmp_path, Script(GOOD), name="another").state.phase is Phase.HELD
    assert weights(cluster) == [("old", 90)]


def test_what_else_changes_in_the_object_is_let_be(cluster: Cluster, tmp_path: Path) -> None:
    def label() -> None:
        cluster.patch("HTTPRoute", "llm", {"metadata": {"labels": {f"at-{script.looks}": "x"}}})

    script = Script(GOOD)
    script.at_look = dict.fromkeys(range(2, 40), label)
    assert roll(cluster, tmp_path, script).state.phase is Phase.COMPLETED
    assert len(cluster.get("HTTPRoute", "llm")["metadata"]["labels"]) > 30


@pytest.mark.parametrize(
    ("phase", "wanted"),
    [(Phase.COMPLETED, [("old", 0), ("new", 100)]), (Phase.ROLLED_BACK, [("old", 1), ("new", 0)])],
)
def test_promote_and_rollback_are_noticed(
    cluster: Cluster, tmp_path: Path, phase: Phase, wanted: list[tuple[str, int | None]]
) -> None:
    async def both(client: KubeClient) -> tuple[Record, Record]:
        script = Script(GOOD)
        running = controller(client, script, replace(PLAN, every_s=1e9))
        task = asyncio.ensure_future(running.run())
        await wait_for(lambda: script.looks > 3)
        said = await finish(Store(client, "HTTPRoute", "default", "llm"), phase)
        return said, await task

    said, noticed = run(cluster, tmp_path, both)
    assert (said.state.phase, noticed.state.phase) == (phase, phase)
    assert noticed.state.reason.endswith("by hand")
    assert weights(cluster) == wanted


def test_promote_and_rollback_work_without_a_controller(cluster: Cluster, tmp_path: Path) -> None:
    killed_at(cluster, tmp_path, 20)

    async def by_hand(client: KubeClient) -> None:
        store = Store(client, "HTTPRoute", "default", "llm")
        assert (await finish(store, Phase.COMPLETED)).state.share == 100
        assert weights(cluster) == [("old", 0), ("new", 100)]
        await finish(store, Phase.ROLLED_BACK)
        assert (await status(store)).state.phase is Phase.ROLLED_BACK

    run(cluster, tmp_path, by_hand)
    assert weights(cluster) == [("old", 1), ("new", 0)]


def test_without_a_rollout_there_is_nothing_to_say(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rollout was started on HTTPRoute default/llm"):
        run(cluster, tmp_path, lambda client: finish(Store(client, "HTTPRoute", "default", "llm"), Phase.COMPLETED))
    with pytest.raises(UsageError, match="there is no HTTPRoute default/another"):
        run(cluster, tmp_path, lambda client: status(Store(client, "HTTPRoute", "default", "another")))


def test_one_that_a_person_ends_is_not_gone_on_with(cluster: Cluster, tmp_path: Path) -> None:
    killed_at(cluster, tmp_path, 20)

    async def body(client: KubeClient) -> None:
        async def slow(seconds: float) -> None:  # time for the one before to show that it lives
            await finish(Store(client, "HTTPRoute", "default", "llm"), Phase.ROLLED_BACK)

        script = Script(GOOD)
        script.let_pass = slow  # type: ignore[method-assign]
        with pytest.raises(Ended, match="rolled back by hand"):
            await controller(client, script, goes_on=True).run()

    run(cluster, tmp_path, body)
    assert weights(cluster) == [("old", 1), ("new", 0)]


def test_one_that_is_held_goes_on_only_if_it_is_said_again(cluster: Cluster, tmp_path: Path) -> None:
    few = replace(PLAN, hold_limit_s=0.0)
    assert roll(cluster, tmp_path, Script((NOTHING, NOTHING)), few).state.phase is Phase.HELD
    with pytest.raises(Ended, match="too few requests"):
        roll(cluster, tmp_path, Script(GOOD), again=False)
    assert roll(cluster, tmp_path, Script(GOOD)).state.phase is Phase.COMPLETED


def test_annotations_that_vanish_end_it(cluster: Cluster, tmp_path: Path) -> None:
    script = Script(GOOD)
    script.at_look[5] = lambda: cluster.patch("HTTPRoute", "llm", {"metadata": {"annotations": None}})
    with pytest.raises(Ended, match="annotations of the rollout are gone"):
        roll(cluster, tmp_path, script)
    assert weights(cluster) == [("old", 90), ("new", 10)]


@pytest.mark.parametrize("status_code", [409, 429, 500, 503])
def test_an_api_server_that_refuses_delays_it_and_loses_nothing(
    cluster: Cluster, tmp_path: Path, status_code: int
) -> None:
    script = Script(GOOD)
    script.at_look[12] = lambda: cluster.faults.refuse(status_code, 5, match=PATH, method="PATCH")
    script.at_look[20] = lambda: cluster.faults.refuse(status_code, 3, match=PATH)
    script.at_look[24] = lambda: cluster.faults.drop(3, match=PATH)
    record = roll(cluster, tmp_path, script)
    assert record.state.phase is Phase.COMPLETED
    assert weights(cluster) == [("old", 0), ("new", 100)]


def test_a_rollback_that_cannot_be_written_is_written_later(cluster: Cluster, tmp_path: Path) -> None:
    script = Script(*[GOOD] * 5, BAD, BAD, GOOD)
    script.at_look[7] = lambda: cluster.faults.refuse(500, 4, match=PATH, method="PATCH")
    record = roll(cluster, tmp_path, script)
    assert record.state.phase is Phase.ROLLED_BACK
    assert weights(cluster) == [("old", 1), ("new", 0)]
