"""What a run of an overload scenario achieved: figures by band, and the pool's."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from picker.sim.engine import EngineConfig
from picker.sim.overload.traffic import Band, Scenario
from picker.sim.overload.world import EXPIRED, FAILED, REFUSED, SERVED, Story, Trace


FILLING_S = 5.0  # of the burst: what engines take in while they fill up is no goodput


@dataclass(frozen=True)
class BandFigures:
    """One band in one stretch of time, by arrival. Rejects stand beside latencies: who sheds looks fast."""

    band: str
    asked: int
    served: int
    refused: int  # 429 at once
    expired: int  # waited to its time to live
    failed: int  # an endpoint died under it
    ttft_p50_s: float  # of the served
    ttft_p99_s: float


@dataclass(frozen=True)
class Figures:
    """A whole run. `goodput` and `busy` are of the burst."""

    policy: str
    scenario: str
    seed: int
    bands: tuple[BandFigures, ...]
    goodput: float  # tokens done in the burst / what the pool does when always full
    jain: float  # over the tenants of the widest band: what they got by what was their fair share of it
    kv_usage: float  # mean over the burst
    recovery_s: float  # from the burst's end until nobody's first tokens are late any more; see `recovery_s`
    stall_s: float  # longest time in which somebody waited at the gateway and nobody was sent
    lost: int  # requests without exactly one end, or sent more than once

    def band(self, name: str) -> BandFigures:
        return next(one for one in self.bands if one.band == name)

    def flat(self) -> dict[str, object]:
        """One row, for CSV."""
        row = {key: value for key, value in asdict(self).items() if key != "bands"}
        for one in self.bands:
            row.update({f"{one.band}_{key}": value for key, value in asdict(one).items() if key != "band"})
        return row


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that `share` of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def jain(shares: Sequence[float]) -> float:
    """1 where all got the same, 1/n where one got all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def fair_shares(demands: Sequence[float], total: float) -> list[float]:
    """Max-min: nobody gets more than he asked for, and nobody less than another who could not have less."""
    shares = [0.0] * len(demands)
    left = total
    hungry = sorted(range(len(demands)), key=lambda index: demands[index])
    while hungry:
        each = left / len(hungry)
        first = hungry.pop(0)
        shares[first] = min(demands[first], each)
        left -= shares[first]
    return shares


def burst(scenario: Scenario) -> tuple[float, float]:
    """Begin and end of its heaviest phase."""
    start_s = 0.0
    heaviest = max(scenario.phases, key=lambda phase: phase.load)
    for phase in scenario.phases:
        if phase is heaviest:
            break
        start_s += phase.seconds
    return start_s, start_s + heaviest.seconds


def band_figures(stories: Iterable[Story], band: str) -> BandFigures:
    own = [story for story in stories if story.asked.band == band]
    counts = Counter(story.outcome for story in own)
    ttft_s = [story.ttft_s for story in own if story.first_s >= 0]
    return BandFigures(
        band,
        asked=len(own),
        served=counts[SERVED],
        refused=counts[REFUSED],
        expired=counts[EXPIRED],
        failed=counts[FAILED],
        ttft_p50_s=percentile(ttft_s, 0.5),
        ttft_p99_s=percentile(ttft_s, 0.99),
    )


def figures(policy: str, trace: Trace, capacity: float) -> Figures:
    """`capacity`: tokens per second that the pool serves when it is always full. Bands are those of the burst."""
    scenario = trace.scenario
    begin_s, end_s = burst(scenario)
    inside = [story for story in trace.stories if begin_s <= story.asked.at_s < end_s]
    usage = [kv for at_s, _, _, _, kv in trace.samples if begin_s + FILLING_S <= at_s <= end_s]
    return Figures(
        policy=policy,
        scenario=scenario.name,
        seed=scenario.seed,
        bands=tuple(band_figures(inside, band.name) for band in scenario.bands),
        goodput=_done(trace, begin_s + FILLING_S, end_s) / capacity,
        jain=_tenants(trace, begin_s, end_s),
        kv_usage=sum(usage) / max(len(usage), 1),
        recovery_s=recovery_s(trace),
        stall_s=trace.longest_stall_s,
        lost=sum(story.ends != 1 or story.sends > 1 for story in trace.stories),
    )


def _done(trace: Trace, begin_s: float, end_s: float) -> float:
    """Tokens per second between the samples that lie in the stretch."""
    inside = [(at_s, tokens) for at_s, tokens in trace.work if begin_s <= at_s <= end_s]
    (first_s, before), (last_s, after) = inside[0], inside[-1]
    return (after - before) / (last_s - first_s)


def _tenants(trace: Trace, begin_s: float, end_s: float) -> float:
    """Fairness over the tenants of the band that has most of them, by tokens of requests sent in the burst."""
    band = max(trace.scenario.bands, key=lambda band: len(band.tenants))
    demand: dict[str, float] = defaultdict(float)
    got: dict[str, float] = defaultdict(float)
    for story in trace.stories:
        if story.asked.band == band.name:
            if begin_s <= story.asked.at_s < end_s:
                demand[story.asked.tenant] += story.asked.tokens
            if begin_s <= story.sent_s < end_s:
                got[story.asked.tenant] += story.asked.tokens
    tenants = sorted(demand)
    fair = fair_shares([demand[one] for one in tenants], sum(got.values()))
    return jain([got[one] / share for one, share in zip(tenants, fair, strict=True) if share > 0])


def idle_ttft_s(story: Story, engine: EngineConfig) -> float:
    """What its first token takes on an idle engine without a prefix cache."""
    steps = -(-story.asked.prompt_tokens // engine.max_num_batched_tokens)
    timing = engine.timing
    prefill_s = steps * timing.prefill_base_s + story.asked.prompt_tokens * timing.prefill_s_per_token
    return prefill_s / timing.speedup


def recovery_s(trace: Trace, *, window_s: float = 2.0, factor: float = 1.3) -> float:
    """Seconds from the burst's end to the begin of the first window after which latency is what it was before.

    Latency: the median of TTFT by what it would be on an idle engine, of requests that arrive in the window, without
    those of greedy tenants, who go on paying for what they asked. As before: at most `factor` times the median of all
    windows before the burst. Infinity if it never is.
    """
    begin_s, end_s = burst(trace.scenario)
    greedy = {f"{band.name}-{tenant}" for band in trace.scenario.bands for tenant in _greedy(band)}
    slowness = [
        (story.asked.at_s, story.ttft_s / idle_ttft_s(story, trace.scenario.engine))
        for story in trace.stories
        if story.first_s >= 0 and story.asked.tenant not in greedy
    ]
    usual = factor * percentile((value for at_s, value in slowness if 2.0 <= at_s < begin_s), 0.5)
    at_s = recovered_s = end_s
    while at_s + window_s <= trace.scenario.seconds:
        window = [value for asked_s, value in slowness if at_s <= asked_s < at_s + window_s]
        if percentile(window, 0.5) > usual:
            recovered_s = at_s + window_s
        at_s += window_s / 2
    return recovered_s - end_s if recovered_s < trace.scenario.seconds else math.inf


def _greedy(band: Band) -> list[int]:
    """Tenants who send more than twice their even share."""
    even = sum(band.tenants) / len(band.tenants)
    return [index for index, share in enumerate(band.tenants) if share > 2 * even]
