"""Dynamo's cost function in the lab against Dynamo itself: hit rates of its own replay of the same trace.

`run_mocker_trace_replay` of ai-dynamo-runtime 1.6.1, 8 workers of 65,536 blocks of 64 tokens, arrivals four times as
fast: 0.127 with round robin, 0.245 by default, 0.324 tuned. The engines here take about the time of its mock workers,
22 µs for a token of a prompt and 6 ms for a step of answers.
"""

from functools import cache

import pytest

from picker.sim.asked import Load
from picker.sim.engine import EngineConfig
from picker.sim.figures import figures
from picker.sim.gateway import PolicyGateway
from picker.sim.policies import POLICIES
from picker.sim.timing import TimingModel
from picker.sim.traces import FORMATS
from picker.sim.world import Setting, World
from tests.support.shared import SHARED, needs_shared

WORKER = EngineConfig(
    num_blocks=65_536 * 64 // 512,
    block_size=512,
    max_num_batched_tokens=8_192,
    timing=TimingModel(0.012, 2.2e-5, 0.0057, 1e-9, 1e-5),
)


@cache
def conversation() -> Load:
    return FORMATS["mooncake"](SHARED / "traces" / "mooncake_conversation.jsonl", 1).scaled(4.0)


@needs_shared
@pytest.mark.parametrize(("name", "hit_rate"), [("dynamo", 0.245), ("dynamo-tuned", 0.324)])
def test_hit_rates_are_those_of_the_original(name: str, hit_rate: float) -> None:
    outcome = World(Setting((WORKER,) * 8), conversation(), PolicyGateway(POLICIES[name](1))).run()
    assert figures(name, outcome, 0.0, 0.0).hit_rate == pytest.approx(hit_rate, abs=0.01)
