"""Routing policies of the lab by name. Each is made anew for a run: `POLICIES[name](seed)`."""

from collections.abc import Callable

from picker.sim.policies import dynamo
from picker.sim.policies.aibrix import AibrixPrefixCache
from picker.sim.policies.base import Policy
from picker.sim.policies.llmd import LlmDBlend, LlmDSticky, LlmDStickyRequests
from picker.sim.policies.longest_prefix import LongestPrefix
from picker.sim.policies.oracle import Oracle
from picker.sim.policies.round_robin import RoundRobin
from picker.sim.policies.sglang import SglangCacheAware
from picker.sim.policies.simple import LeastRequest, PowerOfTwo, Random

POLICIES: dict[str, Callable[[int], Policy]] = {
    "round-robin": RoundRobin,
    "random": Random,
    "least-request": LeastRequest,
    "power-of-two": PowerOfTwo,
    "longest-prefix": LongestPrefix,
    "sglang-cache-aware": SglangCacheAware,
    "llm-d-blend": LlmDBlend,
    "llm-d-sticky": LlmDSticky,
    "llm-d-sticky-requests": LlmDStickyRequests,
    "dynamo": dynamo.Dynamo,
    "dynamo-tuned": dynamo.tuned,
    "aibrix-prefix-cache": AibrixPrefixCache,
    "oracle": Oracle,
}
