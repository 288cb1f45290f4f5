"""One candidate's decisions; several against a server with faults: never two leaders, in the end always one."""

import datetime
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picker.errors import KubernetesError
from picker.kube.lease import Action, Candidate, Terms, lease_from
from tests.model.lease import EPOCH, SECOND, TERMS, Server, World, candidate

LATER = EPOCH + datetime.timedelta(seconds=2, microseconds=7)


def written(server: Server, holder: str = "other", **spec: Any) -> dict[str, Any]:
    full = {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3, **spec}
    lease = {"metadata": {"name": "epp", "uid": "u", "labels": {"a": "b"}}, "spec": full}
    return server.create(lease)


def leading(server: Server) -> Candidate:
    """Became leader at 0, by a claim sent then."""
    mine = candidate("me")
    assert mine.step(0) is Action.READ
    mine.read(None, 1)
    assert mine.step(1) is Action.CREATE
    mine.wrote(lease_from(server.create(mine.claim(EPOCH))), 0)
    return mine


def test_a_lease_that_is_not_there_is_created() -> None:
    server = Server()
    mine = leading(server)
    assert server.lease == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "epp", "namespace": "default", "resourceVersion": "1"},
        "spec": {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:00.000000Z",
            "leaseTransitions": 0,
        },
    }
    assert mine.leads_until_ns == 10 * SECOND  # from when it was sent
    assert mine.step(SECOND) is Action.WAIT
    assert mine.due_ns == 2 * SECOND


def test_a_renewal_changes_its_time_alone() -> None:
    server = Server()
    mine = leading(server)
    assert mine.step(2 * SECOND) is Action.UPDATE
    claim = mine.claim(LATER)
    assert claim["spec"] == {**server.lease["spec"], "renewTime": "2026-01-01T00:00:02.000007Z"}
    mine.wrote(lease_from(server.update(claim)), 2 * SECOND)
    assert mine.leads_until_ns == 12 * SECOND


def test_anothers_lease_runs_out_on_our_clock() -> None:
    server, mine = Server(), candidate("me")
    theirs = lease_from(written(server, renewTime="1999-01-01T00:00:00.000000Z", preferredHolder="x", strategy="y"))
    mine.is_watched = True
    mine.step(0)
    mine.read(theirs, 5 * SECOND)
    assert (mine.step(5 * SECOND), mine.due_ns) == (Action.WAIT, 20 * SECOND)
    mine.notice(theirs, 9 * SECOND)  # the same record is no renewal
    assert (mine.step(9 * SECOND), mine.due_ns) == (Action.WAIT, 20 * SECOND)
    server.label()
    mine.notice(lease_from(server.lease), 10 * SECOND)  # nor is a label
    assert (mine.step(10 * SECOND), mine.due_ns) == (Action.WAIT, 20 * SECOND)
    assert mine.step(20 * SECOND) is Action.UPDATE
    claim = mine.claim(LATER)
    assert claim["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 4,
        "acquireTime": "2026-01-01T00:00:02.000007Z",
        "renewTime": "2026-01-01T00:00:02.000007Z",
        "preferredHolder": "x",
        "strategy": "y",
    }
    assert claim["metadata"] == server.lease["metadata"]
    mine.wrote(lease_from(server.update(claim)), 20 * SECOND)
    assert mine.leads_until_ns == 30 * SECOND


def test_a_renewal_of_another_is_waited_out_anew() -> None:
    server, mine = Server(), candidate("me")
    mine.is_watched = True
    mine.notice(lease_from(written(server)), 0)
    server.update({**server.lease, "spec": {**server.lease["spec"], "renewTime": "z"}})
    mine.notice(lease_from(server.lease), 14 * SECOND)
    assert (mine.step(15 * SECOND), mine.due_ns) == (Action.WAIT, 29 * SECOND)


def test_what_is_released_is_taken_at_once_and_by_one() -> None:
    server = Server()
    mine = leading(server)
    others = [candidate("b"), candidate("c")]
    for other in others:
        other.is_watched = True
        other.notice(lease_from(server.lease), SECOND)
        assert other.step(SECOND) is Action.WAIT
    freed = server.update(mine.resignation(LATER))
    assert freed["spec"] == {
        "leaseDurationSeconds": 1,
        "leaseTransitions": 0,
        "acquireTime": "2026-01-01T00:00:02.000007Z",
        "renewTime": "2026-01-01T00:00:02.000007Z",
    }
    for other in others:
        other.notice(lease_from(freed), 2 * SECOND)
        assert other.step(2 * SECOND) is Action.UPDATE
    server.update(others[0].claim(LATER))
    assert server.lease["spec"]["leaseTransitions"] == 1
    others[1].stale(2 * SECOND)
    assert others[1].step(2 * SECOND) is Action.READ


def test_without_a_watch_it_looks_every_retry() -> None:
    mine = candidate("me")
    mine.step(0)
    mine.read(lease_from(written(Server())), 0)
    assert (mine.step(0), mine.due_ns) == (Action.WAIT, int(2.25 * SECOND))
    assert mine.step(mine.due_ns) is Action.READ


def test_a_watch_that_ends_is_a_reason_to_look() -> None:
    mine = candidate("me")
    mine.is_watched = True
    mine.notice(lease_from(written(Server())), 0)
    assert mine.step(0) is Action.WAIT
    mine.unwatched(3 * SECOND)
    assert mine.step(3 * SECOND) is Action.READ
    leader = leading(Server())
    leader.unwatched(SECOND)
    assert leader.step(SECOND) is Action.WAIT  # it knows


def test_a_leader_that_cannot_renew_stops_by_itself() -> None:
    mine = leading(Server())
    for second in (2, 4, 6, 8, 10):
        assert mine.step(second * SECOND + SECOND // 2) is Action.UPDATE
        mine.failed(second * SECOND - SECOND // 4, second * SECOND)
    assert mine.leads_until_ns == 10 * SECOND


def test_it_waits_as_long_as_the_server_asks_within_reason() -> None:
    mine = leading(Server())
    mine.failed(2 * SECOND, 3 * SECOND, after_s=4.0)
    assert mine.due_ns == 7 * SECOND
    mine.failed(2 * SECOND, 3 * SECOND, after_s=4000.0)
    assert mine.due_ns == 13 * SECOND


def test_a_leader_that_hears_of_another_finds_out() -> None:
    server = Server()
    mine = leading(server)
    old = lease_from({**written(Server()), "metadata": {"resourceVersion": "0"}})
    mine.notice(lease_from(server.lease), SECOND)
    assert mine.step(SECOND) is Action.WAIT  # its own renewal
    mine.notice(old, SECOND)
    assert mine.leads_until_ns  # it may be late
    assert mine.step(SECOND) is Action.UPDATE
    mine.stale(SECOND)
    assert mine.step(SECOND) is Action.READ
    mine.read(lease_from(written(Server())), SECOND, notices=mine.notices)
    assert mine.leads_until_ns == 0


def test_who_deletes_a_lease_frees_nobody() -> None:
    server = Server()
    mine, other = leading(server), candidate("b")
    other.is_watched = True
    other.notice(lease_from(server.lease), SECOND)
    server.delete()
    other.notice(None, 2 * SECOND)
    assert (other.step(2 * SECOND), other.due_ns) == (Action.WAIT, 16 * SECOND)
    mine.notice(None, 2 * SECOND)
    assert mine.step(2 * SECOND) is Action.UPDATE
    mine.stale(2 * SECOND)
    mine.read(None, 2 * SECOND, notices=mine.notices)
    assert mine.step(2 * SECOND) is Action.CREATE
    assert mine.leads_until_ns == 10 * SECOND
    assert other.step(16 * SECOND) is Action.CREATE


def test_anothers_lease_that_came_and_was_deleted_while_ours_was_created_is_waited_out() -> None:
    server, mine, other = Server(), candidate("me"), candidate("b")
    mine.is_watched = True
    mine.read(None, 0)
    assert mine.step(0) is Action.CREATE
    claim = mine.claim(EPOCH)
    server.create(other.claim(EPOCH))
    mine.notice(lease_from(server.lease), SECOND)
    server.delete()
    mine.wrote(lease_from(server.create(claim)), 0)
    assert mine.leads_until_ns == 0
    assert (mine.step(2 * SECOND), mine.due_ns) == (Action.WAIT, 16 * SECOND)
    assert mine.step(16 * SECOND) is Action.UPDATE


def test_one_whose_lead_is_over_believes_what_it_hears() -> None:
    server = Server()
    mine, other = leading(server), candidate("b")
    mine.is_watched = True
    server.delete()
    server.create(other.claim(EPOCH))
    mine.notice(lease_from(server.lease), 20 * SECOND)
    server.delete()
    mine.notice(None, 21 * SECOND)
    assert (mine.step(21 * SECOND), mine.due_ns) == (Action.WAIT, 35 * SECOND)


def test_an_answer_that_an_event_may_have_overtaken_is_not_believed() -> None:
    server, mine = Server(), candidate("me")
    mine.is_watched = True
    assert mine.step(0) is Action.READ
    asked, held = mine.notices, lease_from(written(server))
    server.update({**server.lease, "spec": {"leaseDurationSeconds": 1}})
    mine.notice(lease_from(server.lease), SECOND)
    mine.read(held, SECOND, notices=asked)
    assert mine.step(SECOND) is Action.READ


def test_the_same_name_goes_on() -> None:
    server = Server()
    leading(server)
    again = candidate("me")
    again.read(lease_from(server.lease), SECOND)
    assert again.step(SECOND) is Action.UPDATE
    assert again.claim(LATER)["spec"]["leaseTransitions"] == 0
    assert again.claim(LATER)["spec"]["acquireTime"] == "2026-01-01T00:00:00.000000Z"


def test_writes_that_come_too_late_again_and_again_are_slowed_down() -> None:
    mine = candidate("me")
    for _ in range(2):
        mine.stale(0)
        assert mine.step(0) is Action.READ
    mine.stale(0)
    assert (mine.step(0), mine.due_ns) == (Action.WAIT, int(2.25 * SECOND))


@pytest.mark.parametrize(
    "raw",
    [None, [], {}, {"metadata": {}}, {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": 1}}],
)
def test_what_is_no_lease(raw: Any) -> None:
    with pytest.raises(KubernetesError, match="no Lease"):
        lease_from(raw)


def test_an_empty_lease_is_free() -> None:
    empty = lease_from({"metadata": {"resourceVersion": "1"}})
    assert (empty.holder, empty.lasts_ns) == ("", 0)
    mine = candidate("me")
    mine.read(empty, 0)
    assert mine.step(0) is Action.UPDATE
    assert mine.claim(EPOCH)["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize(("lease", "renew", "retry"), [(10, 10, 2), (15, 10, 8), (15, 10, 0), (0, 0, 0)])
def test_times_that_cannot_work(lease: float, renew: float, retry: float) -> None:
    with pytest.raises(ValueError, match="must be longer than"):
        Terms(lease_s=lease, renew_s=renew, retry_s=retry)


def test_a_lease_has_whole_seconds() -> None:
    assert Terms(lease_s=1.5, renew_s=1, retry_s=0.1).lease_seconds == 2
    assert TERMS.lease_seconds == 15


CLOCKS = st.tuples(st.integers(1, 10**15), st.sampled_from([0.9, 1.0, 1.1]))
REPLICAS = st.integers(0, 2)


class Elections(RuleBasedStateMachine):
    """Three candidates. Everything may go wrong but the clocks' pace, which differs by a tenth."""

    @initialize(clocks=st.lists(CLOCKS, min_size=3, max_size=3))
    def begin(self, clocks: list[tuple[int, float]]) -> None:
        self.world = World(clocks)

    @rule(seconds=st.sampled_from([0.01, 0.5, 2, 5, 11, 20]))
    def time_passes(self, seconds: float) -> None:
        self.world.now_ns += int(seconds * SECOND)

    @rule(which=REPLICAS)
    def a_replica_acts(self, which: int) -> None:
        self.world.act(self.world.replicas[which])

    @rule(which=REPLICAS)
    def a_request_arrives(self, which: int) -> None:
        request = self.world.replicas[which].request
        if request is not None:
            self.world.handle(request)

    @rule(which=REPLICAS)
    def an_answer_arrives(self, which: int) -> None:
        self.world.answer(self.world.replicas[which])

    @rule(which=REPLICAS, times=st.integers(1, 3))
    def a_replica_gets_on(self, which: int, times: int) -> None:
        """The usual."""
        replica = self.world.replicas[which]
        for _ in range(times):
            self.world.act(replica)
            if replica.request is not None:
                self.world.handle(replica.request)
            self.world.answer(replica)

    @rule()
    def all_but_one_get_on(self) -> None:
        for replica in self.world.replicas[1:]:
            self.world.catch_up(replica)
        self.a_replica_gets_on(which=1, times=2)
        self.a_replica_gets_on(which=2, times=2)

    @rule(which=REPLICAS)
    def an_answer_is_lost(self, which: int) -> None:
        self.world.lose(self.world.replicas[which])

    @rule(which=REPLICAS, data=st.data())
    def a_request_arrives_late(self, which: int, data: st.DataObject) -> None:
        late = self.world.replicas[which].late
        if late:
            self.world.handle(late.pop(data.draw(st.integers(0, len(late) - 1))))

    @rule(which=REPLICAS, times=st.integers(1, 8))
    def a_watch_tells(self, which: int, times: int) -> None:
        for _ in range(times):
            self.world.watch(self.world.replicas[which])

    @rule(which=REPLICAS)
    def a_watch_is_cut(self, which: int) -> None:
        self.world.cut(self.world.replicas[which])

    @rule(which=REPLICAS)
    def a_replica_releases(self, which: int) -> None:
        self.world.release(self.world.replicas[which])

    @rule(which=REPLICAS)
    def a_control_process_dies(self, which: int) -> None:
        self.world.crash(self.world.replicas[which])

    @rule(which=REPLICAS, is_same=st.booleans())
    def it_is_started_again(self, which: int, is_same: bool) -> None:
        self.world.restart(self.world.replicas[which], is_same=is_same)

    @rule()
    def somebody_sets_a_label(self) -> None:
        self.world.server.label()

    @rule()
    def somebody_deletes_the_lease(self) -> None:
        self.world.delete()

    @invariant()
    def there_are_never_two(self) -> None:
        if hasattr(self, "world"):
            leaders = self.world.leaders()
            assert len(leaders) <= 1, leaders

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        standing = [each for each in self.world.replicas if each.is_running and not each.is_released]
        self.world.settle(50)
        leaders = self.world.leaders()
        assert len(leaders) == (1 if standing else 0), leaders
        assert not standing or leaders == [self.world.server.holder]


TestElections = Elections.TestCase
TestElections.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, phases=(Phase.generate, Phase.shrink)
)
