"""Runs policies on a load: the lab behind `picker sim`."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
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
from picker.sim.gateway import Gateway, PolicyGateway
from picker.sim.gpus import FLEETS, GPUS, fleet
from picker.sim.policies import POLICIES
from picker.sim.world import Fault, Outcome, Setting, World

PICKER = "picker"
MAX_WAITING = 1_000_000
SAMPLES = 400  # of a run, for the plot of load over time


@dataclass(frozen=True)
class Lab:
    """What all policies are run on."""

    load: Load
    setting: Setting
    seed: int
    tells_cached: bool = False

    def run(self, policy: str) -> tuple[found.Figures, Outcome]:
        """Raises UsageError for a policy there is not, ConfigError for a file that holds none."""
        gateway = gateway_of(policy, self.seed, self.tells_cached)()
        started_s = time.perf_counter()
        outcome = World(self.setting, self.load, gateway).run()
        wall_s = time.perf_counter() - started_s
        return found.figures(policy, outcome, found.ceiling(self.load), wall_s), outcome


def gateway_of(policy: str, seed: int, tells_cached: bool = False) -> Callable[[], Gateway]:
    """Makes the gateway of a name, or of a file that is an EndpointPickerConfig, anew for each run."""
    if policy == PICKER:
        return lambda: CoreGateway(DEFAULT_CONFIG, seed=seed, tells_cached=tells_cached)
    if policy in POLICIES:
        return lambda: PolicyGateway(POLICIES[policy](seed))
    if policy.endswith((".yaml", ".yml", ".json")) or "/" in policy:
        config = load_config(read_text(Path(policy)), source=policy)
        return lambda: CoreGateway(config, seed=seed, tells_cached=tells_cached)
    hint = one_of(policy, [PICKER, *POLICIES])
    raise UsageError(f"there is no policy {quoted(policy)}: {hint}; a configuration file ends with .yaml")


def engines(gpus: tuple[str, ...], replicas: int, cache_tokens: int, key_tokens: int, max_lora: int) -> Setting:
    """Replicas on these GPUs; `cache_tokens` of each, 0 for what fits into its memory.

    A block of an engine is what a key of the load names, whatever size blocks have in production: what is shared can be
    found in no smaller pieces, and a cache has room for as many tokens.
    """
    try:
        kinds = fleet(gpus, replicas)
    except KeyError as error:
        name = str(error.args[0])
        raise UsageError(f"there is no GPU {quoted(name)}: {one_of(name, [*GPUS, *FLEETS])}") from None

    def engine(kind: str) -> EngineConfig:
        given = GPUS[kind]
        tokens = cache_tokens or given.num_blocks * given.block_size
        blocks = max(tokens // key_tokens, 1)
        return replace(given, num_blocks=blocks, block_size=key_tokens, max_waiting=MAX_WAITING, max_lora=max_lora)

    return Setting(tuple(engine(kind) for kind in kinds), kinds, looks=True)


def lab(load: Load, setting: Setting, *, seed: int, clients: int = 0, faults: Iterable[Fault] = ()) -> Lab:
    """Raises UsageError for a load that these replicas cannot serve."""
    if not load.asked:
        raise UsageError(f"{load.name} has no request")
    room = min(config.num_blocks * config.block_size for config in setting.engines)
    longest = max(load.asked, key=lambda one: one.tokens)
    if longest.tokens > room:
        raise UsageError(
            f"request {longest.index} of {load.name} has {longest.tokens} tokens, a replica caches {room}: "
            "give --blocks more, or 0 for what fits into the GPU's memory"
        )
    if not all(config.max_lora for config in setting.engines) and any(one.lora for one in load.asked):
        raise UsageError(f"{load.name} asks for LoRA adapters: give --max-lora")
    bands = {one.band: one.priority for one in load.asked if one.band}
    sample_s = max(load.asked[-1].at_s / SAMPLES, 0.5)
    return Lab(
        load,
        replace(
            setting,
            clients=clients,
            faults=tuple(faults),
            priorities=tuple(bands.items()),
            seed=seed,
            sample_s=sample_s,
        ),
        seed,
    )
