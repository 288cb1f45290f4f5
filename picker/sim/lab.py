"""Runs policies on a load: the lab behind `picker sim`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from picker.config.document import read_text
from picker.config.load import load_config
from picker.config.model import DEFAULT_CONFIG
from picker.config.suggest import one_of, quoted
from picker.errors import UsageError
from picker.sim import figures as found
from picker.sim.asked import Load
from picker.sim.core import CoreGateway
from picker.sim.engine import EngineConfig
from picker.sim.gateway import SERVED, Gateway, PolicyGateway
from picker.sim.gpus import FLEETS, GPUS, fleet
from picker.sim.policies import POLICIES
from picker.sim.traces.rows import MAX_TIME_S
from picker.sim.world import Fault, Outcome, Setting, World

PICKER = "picker"
REFERENCES = ("oracle", "dynamo-tuned")
"""What a cluster can do is the most that these come to."""
FULL_CLIENTS = 48  # for each replica: so many keep it full
MAX_WAITING = 1_000_000
MAX_REPLICAS = 4_096  # as an engine of the core
SAMPLES = 400  # of a run, for the picture of load over time


@dataclass(frozen=True)
class Pool:
    """Replicas: how many, of which GPUs in turn, and what each of them is given.

    `cache_tokens`: 0 for what fits into the GPU's memory. `speedup` divides the times of all.
    """

    replicas: int = 8
    gpus: tuple[str, ...] = ("h100",)
    cache_tokens: int = 65_536 * 64
    max_lora: int = 0
    speedup: float = 1.0

    def kinds(self) -> tuple[str, ...]:
        """The GPU of each. Raises UsageError for one that is unknown, and for no replica at all."""
        if not self.replicas:
            raise UsageError("a cluster without replicas serves nobody: give --replicas 1 or more")
        if self.replicas > MAX_REPLICAS:
            raise UsageError(f"picker routes to at most {MAX_REPLICAS} replicas: give fewer --replicas")
        try:
            return fleet(self.gpus, self.replicas)
        except KeyError as error:
            name = str(error.args[0])
            raise UsageError(f"there is no GPU {quoted(name)}: {one_of(name, [*GPUS, *FLEETS])}") from None

    def engine(self, kind: str, key_tokens: int) -> EngineConfig:
        """A block of an engine is what a key of the load names, whatever size blocks have in production: what is
        shared can be found in no smaller pieces, and a cache has room for as many tokens."""
        given = GPUS[kind]
        tokens = self.cache_tokens or given.num_blocks * given.block_size
        return replace(
            given,
            num_blocks=max(tokens // key_tokens, 1),
            block_size=key_tokens,
            max_waiting=MAX_WAITING,
            max_lora=self.max_lora,
            timing=replace(given.timing, speedup=given.timing.speedup * self.speedup),
        )


@dataclass(frozen=True)
class Lab:
    """What all policies are run on; `lab` makes it. `tells_cached`: model servers tell cached tokens in their usage."""

    load: Load
    setting: Setting
    tells_cached: bool = False

    @cached_property
    def ceiling(self) -> float:
        return found.ceiling(self.load)

    def run(self, policy: str) -> tuple[found.Figures, Outcome]:
        """Raises UsageError for a policy there is not, ConfigError for a file that holds none."""
        gateway = gateway_of(policy, self.setting.seed, self.tells_cached)()
        started_s = time.perf_counter()
        outcome = World(self.setting, self.load, gateway).run()
        return found.figures(policy, outcome, self.ceiling, time.perf_counter() - started_s), outcome

    def at_load(self, share: float) -> "Lab":
        """The same with arrivals so fast that they ask for this share of what the cluster can do."""
        last_s = max(one.at_s for one in self.load.asked if one.after < 0)
        if last_s <= 0:
            raise UsageError(f"all requests of {self.load.name} come at once: there is no rate to change")
        offered = len(self.load.asked) / last_s
        load = self.load.scaled(share * self.capacity() / offered)
        _require_end(load)
        return replace(self, load=load)

    def capacity(self) -> float:
        """Requests per second when every replica is always full and nobody thinks, under the better of two policies."""
        full = replace(self.setting, clients=FULL_CLIENTS * len(self.setting.engines), faults=(), looks=False)
        hasty = replace(self.load, asked=tuple(replace(one, think_s=0.0) for one in self.load.asked))
        busy = replace(self, setting=full, load=hasty)
        return max(busy.rate(policy) for policy in REFERENCES)

    def rate(self, policy: str) -> float:
        """Answers per second from the first tenth of them to the last: before and after replicas are not full."""
        _, outcome = self.run(policy)
        ends_s = sorted(story.end_s for story in outcome.stories if story.outcome == SERVED)
        first, last = len(ends_s) // 10, len(ends_s) * 9 // 10
        if last <= first or ends_s[last] <= ends_s[first]:
            raise UsageError(f"{self.load.name} is too short to measure what the cluster can do")
        return (last - first) / (ends_s[last] - ends_s[first])


def lab(
    load: Load, pool: Pool, *, seed: int = 1, clients: int = 0, faults: Sequence[Fault] = (), tells_cached: bool = False
) -> Lab:
    """Raises UsageError for a load that these replicas cannot serve."""
    kinds = pool.kinds()
    engines = tuple(pool.engine(kind, load.key_tokens) for kind in kinds)
    _require_possible(load, pool, min(config.num_blocks * config.block_size for config in engines))
    _require_sound(faults, len(kinds))
    bands = {one.band: one.priority for one in load.asked if one.band}
    setting = Setting(
        engines,
        kinds,
        tuple(faults),
        clients,
        tuple(bands.items()),
        seed,
        sample_s=max(load.asked[-1].at_s / SAMPLES, 0.5),
        looks=True,
    )
    return Lab(load, setting, tells_cached)


def _require_sound(faults: Sequence[Fault], replicas: int) -> None:
    """They strike replicas that are there, and nobody who is dead dies."""
    until_s = [-1.0] * replicas
    for fault in sorted(faults, key=lambda fault: fault.at_s):
        slots = fault.slots or range(replicas)
        if max(slots) >= replicas:
            raise UsageError(f"a failure strikes a replica that is not there: they are numbered 0 to {replicas - 1}")
        for slot in slots if fault.kind == "dead" else ():
            if fault.at_s <= until_s[slot]:
                raise UsageError(
                    f"replica {slot} would die at second {fault.at_s:g}, but is dead: make one failure of both"
                )
            until_s[slot] = fault.at_s + fault.seconds if fault.seconds else float("inf")


def _require_end(load: Load) -> None:
    if load.asked[-1].at_s > MAX_TIME_S:
        raise UsageError(f"the last request of {load.name} would come after more than a year: let them come faster")


def _require_possible(load: Load, pool: Pool, room: int) -> None:
    if not load.asked:
        raise UsageError(f"{load.name} holds no request: look at the trace, and at --part")
    _require_end(load)
    longest = max(load.asked, key=lambda one: one.tokens)
    if longest.tokens > room:
        raise UsageError(
            f"request {longest.index} of {load.name} has {longest.tokens} tokens, a replica caches {room}: "
            "give more --blocks"
        )
    if not pool.max_lora and any(one.lora for one in load.asked):
        raise UsageError(f"{load.name} asks for LoRA adapters: give --max-lora")


def gateway_of(policy: str, seed: int, tells_cached: bool = False) -> Callable[[], Gateway]:
    """Makes the gateway of a name, or of a file that is an EndpointPickerConfig, anew for each run.

    Raises UsageError for a policy there is not, ConfigError for a file that holds none.
    """
    if policy == PICKER:
        return lambda: CoreGateway(DEFAULT_CONFIG, seed=seed, tells_cached=tells_cached)
    if policy in POLICIES:
        return lambda: PolicyGateway(POLICIES[policy](seed))
    if policy.endswith((".yaml", ".yml", ".json")) or "/" in policy:
        config = load_config(read_text(Path(policy)), source=policy)
        return lambda: CoreGateway(config, seed=seed, tells_cached=tells_cached)
    hint = one_of(policy, [PICKER, *POLICIES])
    more = "--list-policies says which there are, a configuration file ends with .yaml"
    raise UsageError(f"there is no policy {quoted(policy)}: {hint} ({more})")
