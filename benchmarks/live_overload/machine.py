"""Whether the figures say something about routing, or only about this machine."""

from dataclasses import dataclass

from benchmarks.live_overload.stage import Used

MOST_CPU = 0.7
"""Of one core: what a process with one loop may use. Beyond it, queueing for that loop is part of what is measured."""
MOST_BUSY = 0.9
MOST_LAG_S = 0.05


@dataclass(frozen=True)
class Machine:
    """Shares of one core during a run; `busy` and `others` of all cores; how late requests were sent."""

    client: float
    envoy: float
    picker: float
    server: float
    busy: float
    others: float
    lag_p99_s: float

    @property
    def objections(self) -> list[str]:
        """Why the figures are not to be trusted; empty if they are."""
        found = [
            f"the {name} used {share:.0%} of a core"
            for name, share in (("client", self.client), ("Envoy", self.envoy), ("busiest server", self.server))
            if share > MOST_CPU
        ]
        if self.busy > MOST_BUSY:
            found.append(f"the machine was {self.busy:.0%} busy, {self.others:.0%} by others")
        if self.lag_p99_s > MOST_LAG_S:
            found.append(f"one request in a hundred was sent {self.lag_p99_s * 1e3:.0f} ms late or more")
        return found

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"client {self.client:.0%}, Envoy {self.envoy:.0%}, picker {self.picker:.0%}, busiest server"
            f" {self.server:.0%} of a core; machine {self.busy:.0%} busy, {self.others:.0%} by others; requests sent"
            f" {self.lag_p99_s * 1e3:.0f} ms late (p99)"
        )


def judged(used: Used, client_s: float, seconds: float, policy: str, lag_p99_s: float) -> Machine:
    """`used`, `client_s`: CPU seconds of the parts during `seconds` of a run of `policy`."""
    pickers_s = sum(used.pickers_s.values())
    known_s = client_s + used.envoy_s + pickers_s + sum(used.servers_s)
    return Machine(
        client=client_s / seconds,
        envoy=used.envoy_s / seconds,
        picker=used.pickers_s.get(policy, 0.0) / seconds,
        server=max(used.servers_s) / seconds,
        busy=used.busy_s / used.total_s if used.total_s else 0.0,
        others=max(used.busy_s - known_s, 0.0) / used.total_s if used.total_s else 0.0,
        lag_p99_s=lag_p99_s,
    )
