"""The experiment from beginning to end: capacity, the highest band alone, then the burst under each policy."""

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console

from benchmarks.live_overload import scene
from benchmarks.live_overload.faults import Seen, faults, play
from benchmarks.live_overload.run import Result, run
from benchmarks.live_overload.stage import ROUND_ROBIN, Policy, Stage
from benchmarks.overload_report import Outcome, Run, Window, recovery, summarise
from benchmarks.overload_runs import FILLING_S, capacity, mean_tokens
from picker.sim.overload.traffic import Phase
from picker.sim.timing import TimingModel

PEER = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl=false]
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
"""
"""What the reference picker does without a configuration: its scorers, no queue; sheddable requests are refused.

With its queue it is a model, `PeerFlow`: it would not be fair to give it picker's."""
NO_PICKER = Policy(ROUND_ROBIN, flags=None)
POLICIES = (
    Policy("picker"),
    Policy("peer", gateway="tests.sim.peer_flow:PeerFlow"),
    NO_PICKER,
    Policy("peer without queue", config=PEER),
)
"""The last one is run on request only."""
FULL_RATE = 400.0  # requests per second that no stage of this size can serve
CALM = 0.7  # load before and after the burst


@dataclass(frozen=True)
class Settings:
    """`load`: of the burst, over capacity. Times in seconds."""

    load: float
    seed: int
    capacity_s: float = 8.0
    before_s: float = 5.0
    burst_s: float = 25.0
    after_s: float = 10.0
    is_quick: bool = False

    @classmethod
    def quick(cls, load: float, seed: int) -> "Settings":
        return cls(load, seed, capacity_s=3.0, before_s=1.0, burst_s=4.0, after_s=2.0, is_quick=True)

    @property
    def phases(self) -> list[Phase]:
        """Calm, burst, calm."""
        return [Phase(self.before_s, CALM), Phase(self.burst_s, self.load), Phase(self.after_s, CALM)]

    @property
    def burst(self) -> Window:
        """The time that counts."""
        return Window(self.before_s, self.before_s + self.burst_s)

    @property
    def full(self) -> Window:
        """That in which goodput is measured."""
        return Window(self.burst.from_s + min(FILLING_S, self.burst_s / 2), self.burst.until_s)


@dataclass
class Experiment:
    """What was found."""

    capacity: float = 0.0  # tokens per second
    rate: float = 0.0  # the same in requests per second
    unloaded_p99_s: float = 0.0
    runs: list[Run] = field(default_factory=list)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_faulty: bool = False
    seen: list[Seen] = field(default_factory=list)


async def perform(
    stage: Stage, policies: Sequence[Policy], settings: Settings, console: Console, parts: Collection[str]
) -> Experiment:
    """Progress goes to `console`. `parts`: of "burst" and "faults"; the latter are the first policy's alone."""
    found = Experiment()
    found.capacity = await asyncio.to_thread(capacity, stage.size.engine, scene.MIX, stage.size.servers)
    found.rate = found.capacity / mean_tokens(scene.MIX)
    console.print(f"capacity: {found.capacity:,.0f} tokens/s, {found.rate:.1f} requests/s", soft_wrap=True)
    share = await _saturated(stage, settings) / found.capacity
    found.notes.append(
        f"capacity: in virtual time; here, with more than enough to do, the servers did {share:.0%} of it"
    )
    console.print(found.notes[-1], soft_wrap=True)
    if "burst" in parts:
        await _bursts(found, stage, policies, settings, console)
    for fault in faults(quick=settings.is_quick) if "faults" in parts else ():
        seen = await play(stage, policies[0], fault, rate=found.rate, calm_s=settings.before_s, seed=settings.seed)
        await asyncio.to_thread(_wait_idle, stage)
        found.seen.append(seen)
        found.is_faulty |= bool(seen.objections)
        console.print(f"{fault.name}: {'; '.join(seen.objections) or 'fine'}; {seen.result.machine}", soft_wrap=True)
    return found


async def _bursts(
    found: Experiment, stage: Stage, policies: Sequence[Policy], settings: Settings, console: Console
) -> None:
    alone = await _alone(stage, policies[0], settings, found.rate)
    (band,) = summarise(alone.outcomes, settings.burst)
    found.unloaded_p99_s = band.ttft_p99_s
    console.print(f"highest band alone: TTFT p99 {found.unloaded_p99_s * 1e3:.0f} ms; {alone.machine}", soft_wrap=True)
    for policy in policies:
        result = await _burst(stage, policy, settings, found.rate)
        _note(found, policy, result, settings, stage.size.engine.timing)
        console.print(found.notes[-1], soft_wrap=True)


async def _saturated(stage: Stage, settings: Settings) -> float:
    """The same live: less of it is what the machine takes."""
    load = scene.load([Phase(1.0, 1.0)], FULL_RATE, settings.seed)
    window = Window(1.5, 1.5 + settings.capacity_s / 2)
    result = await run(stage, NO_PICKER, load, window, name="capacity")
    await asyncio.to_thread(_wait_idle, stage)
    return result.work


def _wait_idle(stage: Stage) -> None:
    before = -1
    while (work := stage.work()) != before:
        before = work
        time.sleep(0.3)


async def _alone(stage: Stage, policy: Policy, settings: Settings, rate: float) -> Result:
    """The highest band as in the burst, and nothing else: the very same requests."""
    load = scene.load(settings.phases[:2], rate, settings.seed, [scene.HIGHEST])
    return await run(stage, policy, load, settings.burst, name="alone")


async def _burst(stage: Stage, policy: Policy, settings: Settings, rate: float) -> Result:
    load = scene.load(settings.phases, rate, settings.seed)
    result = await run(stage, policy, load, settings.burst, name=policy.name.replace(" ", "-"), full=settings.full)
    await asyncio.to_thread(_wait_idle, stage)
    return result


def _recovered(seconds: float) -> str:
    return f"as usual {seconds:.1f} s after the burst" if math.isfinite(seconds) else "not as usual again to the end"


def _slowness(outcome: Outcome, timing: TimingModel) -> Outcome:
    """Times by what an idle engine needs for the prompt, so that a few long ones by chance are no latency."""
    idle_s = timing.step_s(outcome.prompt_tokens, 0, 0)
    ttft_s = None if outcome.ttft_s is None else outcome.ttft_s / idle_s
    return replace(outcome, ttft_s=ttft_s, ended_s=outcome.at_s + (outcome.ended_s - outcome.at_s) / idle_s)


def _note(found: Experiment, policy: Policy, result: Result, settings: Settings, timing: TimingModel) -> None:
    end_s = sum(phase.seconds for phase in settings.phases)
    slowness = [_slowness(outcome, timing) for outcome in result.outcomes]
    recovered_s = recovery(slowness, settings.burst, end_s, scene.greedy())
    bands = summarise(result.outcomes, settings.burst, settings.full)
    busy = result.work / found.capacity
    found.runs.append(Run(policy.name, bands, found.capacity, busy, recovered_s))
    found.outcomes[policy.name] = result.outcomes
    lost = sum(band.failed for band in bands)
    faults = [*result.ids.objections, *([f"{lost} requests lost"] if lost else [])]
    found.is_faulty |= bool(faults)
    told = [str(result.machine), f"longest stall {result.stall_s:.2f} s", _recovered(recovered_s)]
    told += ["NOT THE FULL TRUTH: " + each for each in result.machine.objections]
    told += [f"FAULT: {fault}" for fault in (*faults, *result.played.errors)]
    found.notes.append(f"{policy.name}: " + "; ".join(told))
