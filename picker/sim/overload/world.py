"""Runs overload scenarios in the lab's world, and measures what a pool can do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from picker.sim.asked import Asked, Load
from picker.sim.engine import Engine, EngineConfig, Request
from picker.sim.gateway import Gateway
from picker.sim.overload.traffic import BLOCK_TOKENS, Phase, Scenario, traffic
from picker.sim.world import Setting, Story, World


@dataclass
class Trace:
    """What a run left behind."""

    scenario: Scenario
    stories: list[Story]
    busy: list[tuple[float, float]]  # (second, share of engines that run something)
    longest_stall_s: float  # somebody waited at the gateway, and nobody was sent
    end_s: float


def run(scenario: Scenario, asked: Sequence[Asked], gateway: Gateway) -> Trace:
    """One run of one gateway, to the last answer."""
    setting = Setting(
        engines(scenario),
        faults=scenario.faults,
        priorities=tuple((band.name, band.priority) for band in scenario.bands),
        network_s=scenario.network_s,
        scrape_delay_s=scenario.scrape_delay_s,
    )
    outcome = World(setting, Load(scenario.name, tuple(asked), BLOCK_TOKENS), gateway).run()
    busy = [(sample.at_s, sample.busy) for sample in outcome.samples]
    return Trace(scenario, outcome.stories, busy, outcome.longest_stall_s, outcome.end_s)


def engines(scenario: Scenario) -> tuple[EngineConfig, ...]:
    """Each as fast as the scenario says."""
    timing = scenario.engine.timing
    speeds = scenario.speeds or (1.0,) * scenario.replicas
    return tuple(replace(scenario.engine, timing=replace(timing, speedup=timing.speedup * one)) for one in speeds)


def capacity_tokens(scenario: Scenario, *, warm_s: float = 60.0, seconds: float = 300.0) -> float:
    """Tokens of prompts and answers per second that the pool serves when every replica is always full.

    Measured on one replica of each speed with more requests waiting than it can take in.
    """
    speeds = scenario.speeds or (1.0,) * scenario.replicas
    known = {speed: _full_tokens(scenario, speed, warm_s, seconds) for speed in set(speeds)}
    return sum(known[speed] for speed in speeds)


PLENTY = (Phase(80.0, 1.0),)


def _full_tokens(scenario: Scenario, speed: float, warm_s: float, seconds: float) -> float:
    timing = scenario.engine.timing
    config = replace(scenario.engine, timing=replace(timing, speedup=timing.speedup * speed))
    engine = Engine(config, terse=True)
    plenty = traffic(replace(scenario, seed=scenario.seed + 1_000, phases=PLENTY), 400.0)
    now_s, done_s, at_start = 0.0, warm_s + seconds, 0
    for one in plenty:
        while engine.metrics().waiting >= 8:
            now_s = engine.next_step_at() or now_s
            engine.step(now_s)
            if now_s <= warm_s:
                at_start = _work(engine)
            if now_s >= done_s:
                return (_work(engine) - at_start) / seconds
        names = one.cacheable(BLOCK_TOKENS)
        engine.submit(Request(one.index, one.prompt_tokens, one.output_tokens, names), now_s)
    raise ValueError("too few requests to fill an engine for so long")


def _work(engine: Engine) -> int:
    metrics = engine.metrics()
    return metrics.prompt_tokens + metrics.generation_tokens
