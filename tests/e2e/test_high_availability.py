"""Two pickers of one pool, of which one leads, and a real Envoy under load: the leader stops, dies, hangs.

How long that takes and what it costs is measured by `python -m benchmarks.failover`; here it only has to be right.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.polling import wait_until
from tests.support.replicas import Checks, Replica, Replicas, Steady, replicas_under

FLAGS = (
    "--leader-election-lease-duration=2s",
    "--leader-election-renew-deadline=1s",
    "--leader-election-retry-period=200ms",
    "--refresh-metrics-idle-interval=200ms",
)
PER_S = 50
ENOUGH = 25  # requests

LEADS = "this picker leads"
EXPIRED = "the lead was not renewed in time: this picker leads no more"


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    with replicas_under(tmp_path, FLAGS, Checks()) as made:
        yield made


def served(load: Steady) -> None:
    """Requests sent from now on are answered, and go on to be."""
    begun_s = time.monotonic()
    wait_until(lambda: sum(outcome.status == 200 for outcome in load.since(begun_s)) >= ENOUGH)


def taken_over(leader: Replica, follower: Replica) -> None:
    """Waits until the other one is ready, and sees that in no moment both are.

    One that was ready and is so a moment later was ready all the time: no picker comes back here.
    """

    def is_over() -> bool:
        before, other = leader.is_ready, follower.is_ready
        assert not (before and other and leader.is_ready), "both are ready"
        return other

    wait_until(is_over)


def end(leader: Replica) -> None:
    leader.child.terminate()


def kill(leader: Replica) -> None:
    """What serves alone: what watches and elects outlives it for a moment."""
    leader.child.kill()


@pytest.mark.parametrize("what", [end, kill, Replica.crash])
def test_the_other_one_serves(replicas: Replicas, what: Callable[[Replica], None]) -> None:
    leader, follower = replicas.leader(), replicas.follower()
    with Steady(replicas.url, PER_S) as load:
        served(load)
        assert leader.decisions()
        assert not follower.decisions()
        what(leader)
        taken_over(leader, follower)
        served(load)
        assert follower.decisions()
        assert replicas.leader() is follower
    spec = replicas.lease
    assert (spec["holderIdentity"].partition("_")[0], spec["leaseTransitions"]) == (follower.name, 1)
    assert {outcome.status for outcome in load.outcomes} <= {200, 500}  # failMode closed: no request goes unpicked


def test_a_leader_whose_election_hangs_stops_before_another_begins(replicas: Replicas) -> None:
    leader, follower = replicas.leader(), replicas.follower()
    control = leader.control_pid()
    with Steady(replicas.url, PER_S) as load:
        served(load)
        os.kill(control, signal.SIGSTOP)
        taken_over_s = None
        try:
            wait_until(lambda: follower.said(LEADS))
            taken_over_s = follower.said(LEADS)[0]
            served(load)
        finally:
            os.kill(control, signal.SIGCONT)
        assert leader.said(EXPIRED)[0] < taken_over_s
        wait_until(lambda: leader.endpoints())  # it is well again, and stands by
        assert not leader.is_ready
        assert replicas.leader() is follower


def test_who_stands_by_watches_and_scrapes(replicas: Replicas) -> None:
    """So the first pick after a takeover knows every endpoint and its load."""
    leader, follower = replicas.leader(), replicas.follower()
    fresh = replicas.start_server()
    wait_until(lambda: fresh in {row["target"] for row in follower.endpoints()})
    wait_until(lambda: all(row["waiting"] >= 0 for row in follower.endpoints()))  # -1: not scraped yet
    seen = {row["target"]: row["scraped_ns"] for row in follower.endpoints()}
    wait_until(lambda: all(row["scraped_ns"] > seen[row["target"]] for row in follower.endpoints()))
    assert not follower.decisions()
    with Steady(replicas.url, PER_S) as load:
        leader.child.terminate()
        taken_over(leader, follower)
        served(load)
    assert all(pick["candidates"] == 3 for pick in follower.decisions())


def test_one_that_comes_back_stands_by(replicas: Replicas) -> None:
    leader, follower = replicas.leader(), replicas.follower()
    leader.crash()
    wait_until(lambda: follower.is_ready)
    leader.start()
    leader.wait_listening()
    assert replicas.leader() is follower
    assert not leader.is_ready
    follower.child.terminate()
    wait_until(lambda: leader.is_ready)
    assert replicas.leader() is leader
