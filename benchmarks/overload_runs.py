"""Runs of overload experiments in virtual time, and what came of them in the words of `benchmarks.overload_report`."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from benchmarks import overload_report as report
from picker.sim.core import CoreGateway
from picker.sim.engine import EngineConfig
from picker.sim.gateway import EXPIRED, REFUSED, SERVED, Gateway
from picker.sim.overload import world
from picker.sim.overload.traffic import Band, Mix, Phase, Scenario, traffic
from picker.sim.overload.world import Trace, capacity_tokens
from picker.sim.world import Story
from tests.sim.peer_flow import PeerFlow, RoundRobin

FILLING_S = 5.0  # of the burst: engines fill up, and what they take in is no measure of what they can do
GATEWAYS: dict[str, Callable[[], Gateway]] = {"picker": CoreGateway, "round robin": RoundRobin, "peer": PeerFlow}
STATUSES = {SERVED: 200, REFUSED: 429, EXPIRED: 429}


@dataclass(frozen=True)
class Result:
    """One policy in one scenario, over all seeds. Times in seconds."""

    scenario: str
    policy: str
    run: report.Run
    outcomes: tuple[report.Outcome, ...]  # of the first seed
    alone_p99_s: float  # TTFT of the highest band in the burst when the others are not there; NaN: not looked at
    alone_p50_s: float
    stall_s: float  # the longest time in which somebody waited at the gateway and nobody was sent
    relief_s: float  # from the burst's end until all but greedy tenants go on at once again: `relief_s`
    lost: int  # requests that did not end exactly once, or were sent twice

    @property
    def times_alone(self) -> float:
        return self.run.bands[0].ttft_p99_s / self.alone_p99_s


@cache
def mean_tokens(mix: Mix) -> float:
    """Of prompt and answer together."""
    dice = random.Random(0)
    draws = 50_000
    drawn = sum(mix.prompts.draw(dice) + mix.answers.draw(dice) for _ in range(draws))
    return mix.system_tokens + drawn / draws


@cache
def capacity(engine: EngineConfig, mix: Mix, replicas: int) -> float:
    """Tokens per second: what `capacity_tokens` measures."""
    return capacity_tokens(Scenario("capacity", engine=engine, mix=mix, replicas=replicas))


def burst(phases: Sequence[Phase]) -> report.Window:
    """The heaviest phase."""
    heaviest = max(phases, key=lambda phase: phase.load)
    start_s = sum(phase.seconds for phase in phases[: list(phases).index(heaviest)])
    return report.Window(start_s, start_s + heaviest.seconds)


def run(scenario: Scenario, gateway: Callable[[], Gateway], bands: Sequence[Band] | None = None) -> Trace:
    """One seed; only those `bands` ask, the same requests at the same moments."""
    rate = capacity(scenario.engine, scenario.mix, scenario.replicas) / mean_tokens(scenario.mix)
    asked = traffic(replace(scenario, bands=tuple(bands or scenario.bands)), rate)
    return world.run(scenario, asked, gateway())


def experiment(scenario: Scenario, policy: str, seeds: Sequence[int], *, alone: bool = True) -> Result:
    """The scenario under a policy with each of the seeds, and the highest band alone."""
    runs = [replace(scenario, seed=seed) for seed in seeds]
    traces = [run(one, GATEWAYS[policy]) for one in runs]
    highest = max(scenario.bands, key=lambda band: band.priority)
    window = burst(scenario.phases)
    unloaded = [run(one, GATEWAYS[policy], [highest]) for one in runs] if alone else []
    quiet = [
        story.ttft_s
        for trace in unloaded
        for story in trace.stories
        if story.asked.at_s in window and story.first_s >= 0
    ]
    return Result(
        scenario.name,
        policy,
        summary(policy, traces),
        tuple(outcome(story) for story in traces[0].stories),
        alone_p99_s=report.quantile(quiet, 0.99),
        alone_p50_s=report.quantile(quiet, 0.5),
        stall_s=max(trace.longest_stall_s for trace in traces),
        relief_s=max(relief_s(trace) for trace in traces),
        lost=sum(story.ends != 1 or story.sends > 1 for trace in traces for story in trace.stories),
    )


def outcome(story: Story) -> report.Outcome:
    asked = story.asked
    return report.Outcome(
        number=asked.index,
        priority=asked.priority,
        tenant=asked.tenant,
        at_s=asked.at_s,
        status=STATUSES.get(story.outcome, report.LOST),
        ttft_s=story.ttft_s if story.first_s >= 0 else None,
        ended_s=story.end_s,
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
    )


def summary(name: str, traces: Sequence[Trace]) -> report.Run:
    """Percentiles over the requests of all traces; goodput, fairness and use as means over them."""
    scenario = traces[0].scenario
    window = burst(scenario.phases)
    full = report.Window(window.from_s + FILLING_S, window.until_s)
    told = [[outcome(story) for story in trace.stories] for trace in traces]
    bands = []
    for band in report.summarise([one for outcomes in told for one in outcomes], window):
        own = [[one for one in outcomes if one.priority == band.priority] for outcomes in told]
        work = [_work(trace, band.priority, full) for trace in traces]
        fair = [report.fairness([_as_of_burst(one, window) for one in outcomes], window) for outcomes in own]
        bands.append(replace(band, goodput=_mean(work) / full.seconds, jain=_mean(fair)))
    return report.Run(
        name,
        tuple(bands),
        capacity=capacity(scenario.engine, scenario.mix, scenario.replicas),
        utilisation=_mean([share for trace in traces for at_s, share in trace.busy if at_s in full]),
        recovery_s=max(recovery_s(trace) for trace in traces),
    )


def _as_of_burst(one: report.Outcome, window: report.Window) -> report.Outcome:
    """Who is served long after the burst was not served in it: for fairness that is as if he had not been."""
    is_first_in_time = one.ttft_s is not None and one.at_s + one.ttft_s in window
    return one if is_first_in_time or not one.is_good else replace(one, status=report.LOST)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _work(trace: Trace, priority: int, window: report.Window) -> float:
    """Tokens done in the window for requests that were answered whole: prompts when they are done, answers evenly."""
    done = 0.0
    for story in trace.stories:
        if story.asked.priority != priority or story.outcome != SERVED:
            continue
        done += story.asked.prompt_tokens * (story.first_s in window)
        took_s = max(story.end_s - story.first_s, 1e-9)
        inside_s = min(story.end_s, window.until_s) - max(story.first_s, window.from_s)
        done += story.asked.output_tokens * max(inside_s, 0.0) / took_s
    return done


def idle_ttft_s(story: Story, engine: EngineConfig) -> float:
    """What its first token takes on an engine that does nothing else, and has nothing in its cache."""
    steps = -(-story.asked.prompt_tokens // engine.max_num_batched_tokens)
    prefill_s = steps * engine.timing.prefill_base_s + story.asked.prompt_tokens * engine.timing.prefill_s_per_token
    return prefill_s / engine.timing.speedup


def greedy(scenario: Scenario) -> set[str]:
    """Tenants who send more than twice their even share. They go on paying for what they asked."""
    return {
        f"{band.name}-{tenant}"
        for band in scenario.bands
        for tenant, share in enumerate(band.tenants)
        if share > 2 * sum(band.tenants) / len(band.tenants)
    }


def _calm_s(scenario: Scenario, values: Sequence[tuple[float, float]], most: float) -> float:
    """Seconds from the burst's end until the median of two seconds stays at `most` or below; infinity if it never does.

    `values`: (arrival, value) of requests.
    """
    window = burst(scenario.phases)
    at_s = calm_s = window.until_s
    while at_s + 2.0 <= scenario.seconds:
        near = report.Window(at_s, at_s + 2.0)
        if report.quantile((value for asked_s, value in values if asked_s in near), 0.5) > most:
            calm_s = near.until_s
        at_s += 0.5
    return calm_s - window.until_s if calm_s < scenario.seconds else math.inf


def relief_s(trace: Trace) -> float:
    """Until half of all but greedy tenants' requests wait at the gateway no longer than 50 ms."""
    few = greedy(trace.scenario)
    waits = [
        (story.asked.at_s, story.sent_s - story.asked.at_s + max(_engine_wait_s(story, trace.scenario.engine), 0.0))
        for story in trace.stories
        if story.sends and story.asked.tenant not in few
    ]
    return _calm_s(trace.scenario, waits, 0.05)


def _engine_wait_s(story: Story, engine: EngineConfig) -> float:
    """What its first token took in the engine beyond three times what it takes on an idle one, and a tenth of a second:
    so much is the work of a full engine, the rest is waiting."""
    return story.first_s - story.sent_s - 3.0 * idle_ttft_s(story, engine) - 0.1 if story.first_s >= 0 else 0.0


def recovery_s(trace: Trace) -> float:
    """Until first tokens take no longer than usual, engines being no fuller than usual.

    What is looked at is how many times longer than on an idle engine a first token took, so that a few long prompts are
    no latency. As usual: the median is no more than what nine in ten had before the burst.
    """
    scenario = trace.scenario
    few = greedy(scenario)
    slowness = [
        (story.asked.at_s, story.ttft_s / idle_ttft_s(story, scenario.engine))
        for story in trace.stories
        if story.first_s >= 0 and story.asked.tenant not in few
    ]
    begun_s = burst(scenario.phases).from_s
    return _calm_s(scenario, slowness, report.quantile((slow for at_s, slow in slowness if at_s < begun_s), 0.9))
