"""Measures a change of leaders under load: `python -m benchmarks.failover`.

Two pickers with leader election follow a fake API server; a real Envoy asks the one that leads. Load at a steady pace,
then the leader goes: by SIGTERM (`stop`), by SIGKILL of the process that serves (`kill`), or of both its processes at
once, as with a container or a node (`crash`). Times are from the signal: until the other picker is ready, until Envoy
has its first good answer from it after the last failure. Several tries; median, and least to most.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.support.polling import wait_until
from tests.support.replicas import Checks, Outcome, Replica, Replicas, Steady, replicas_under

GOING: dict[str, Callable[[Replica], None]] = {
    "stop": lambda leader: leader.child.terminate(),
    "kill": lambda leader: leader.child.kill(),
    "crash": Replica.crash,
}
BEFORE = 1.0  # seconds of load before the leader goes
AFTER = 2.0  # and after the other one is ready


class Try(NamedTuple):
    """One change of leaders."""

    ready_s: float  # until the other picker is ready
    served_s: float  # until requests succeed again
    failed: int
    sent: int


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    made.add_argument("ways", nargs="*", choices=[[], *GOING], help="how the leader goes (default: all)")
    made.add_argument("--tries", type=int, default=5, help="of each")
    made.add_argument("--rate", type=float, default=100.0, help="requests per second")
    made.add_argument("--lease", type=float, default=15.0, help="seconds; the deadline is 2/3 of it, a retry 2/15")
    made.add_argument("--check", type=float, default=0.25, help="seconds between two health checks of Envoy's")
    made.add_argument("--panic", type=int, default=0, help="per cent of healthy pickers below which Envoy asks all")
    return made


def change(replicas: Replicas, way: str, rate: float) -> Try:
    """The leader goes, the other one serves, and the one that went stands by again."""
    leader, follower = replicas.leader(), replicas.follower()
    with Steady(replicas.url, rate) as load:
        begun_s = time.monotonic()
        wait_until(lambda: time.monotonic() - begun_s > BEFORE)
        if bad := [outcome for outcome in load.outcomes if outcome.status != 200]:
            raise RuntimeError(f"{len(bad)} requests failed before the leader went")
        gone_s = time.monotonic()
        GOING[way](leader)
        wait_until(lambda: follower.is_ready)
        ready_s = time.monotonic() - gone_s
        wait_until(lambda: time.monotonic() - gone_s - ready_s > AFTER)
    leader.child.stop()
    leader.start()
    leader.wait_listening()
    return Try(ready_s, *_cost(load.outcomes, gone_s))


def _cost(outcomes: Sequence[Outcome], gone_s: float) -> tuple[float, int, int]:
    """How long requests failed, how many did, of how many. Those in flight when the leader went count too."""
    touched = [outcome for outcome in outcomes if outcome.ended_s >= gone_s]
    failed = [outcome for outcome in touched if outcome.status != 200]
    last_s = max((outcome.sent_s for outcome in failed), default=gone_s)
    again_s = min((outcome.ended_s for outcome in touched if outcome.sent_s > last_s), default=float("nan"))
    return (again_s - gone_s if failed else 0.0), len(failed), len(touched)


def _shown(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    lease = options.lease
    flags = [
        f"--leader-election-lease-duration={lease:g}s",
        f"--leader-election-renew-deadline={lease * 2 / 3:.3f}s",
        f"--leader-election-retry-period={lease * 2 / 15:.3f}s",
    ]
    table = Table("the leader", "other ready, s", "requests fail for, s", "failed", "tries")
    table.title = f"{options.rate:g} req/s, lease {lease:g} s, Envoy looks every {options.check:g} s"
    with tempfile.TemporaryDirectory(prefix="picker-failover-") as directory:
        with replicas_under(Path(directory), flags, Checks(options.check, options.panic)) as replicas:
            for way in options.ways or GOING:
                tries = [change(replicas, way, options.rate) for _ in range(options.tries)]
                table.add_row(
                    way,
                    _shown([each.ready_s for each in tries], 3),
                    _shown([each.served_s for each in tries], 2),
                    _shown([each.failed for each in tries], 0),
                    str(len(tries)),
                )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
