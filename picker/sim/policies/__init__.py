"""Routing policies of the lab by name. Each is made anew for a run: `POLICIES[name](seed)`."""

from collections.abc import Callable

from picker.sim.policies.base import Policy
from picker.sim.policies.round_robin import RoundRobin

POLICIES: dict[str, Callable[[int], Policy]] = {
    "round-robin": RoundRobin,
}
