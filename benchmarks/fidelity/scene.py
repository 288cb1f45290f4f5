"""What is played in both worlds: requests, model servers and policies."""

import random
from dataclasses import dataclass
from itertools import count

from picker.config.load import load_config
from picker.config.model import DEFAULT_CONFIG
from picker.sim.asked import Asked, Load
from picker.sim.core import CoreGateway
from picker.sim.engine import EngineConfig
from picker.sim.gateway import Gateway, PolicyGateway
from picker.sim.policies import POLICIES as LAB
from picker.sim.timing import TimingModel
from picker.sim.traces.dice import Stage, poisson

SERVERS = 6
SPEED = 0.5  # of an A100: slow enough that what client, Envoy and model servers need themselves counts for little
CACHE_TOKENS = 44_800  # of an A100-40GB, in whole blocks
KEY_TOKENS = 200  # of the load's blocks, and of the model servers'
GROUPS, PREFIX_BLOCKS, QUESTION_TOKENS, ANSWER_TOKENS = 20, (10, 30), (100, 1_500), (8, 32)
RATE = 7.0  # requests per second: round robin has twice the work that these servers would need
MODEL = "m"  # what the lab's requests ask for

ENGINE = EngineConfig(
    num_blocks=CACHE_TOKENS // KEY_TOKENS,
    block_size=KEY_TOKENS,
    max_num_seqs=256,
    max_num_batched_tokens=2_048,
    max_lora=0,
    timing=TimingModel(speedup=SPEED),
)

RANDOM = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: random-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: random-picker}
"""
BLEND = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
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


@dataclass(frozen=True)
class Way:
    """A policy in both worlds: Envoy's own, a picker with a configuration (`config`), or one of the lab's.

    `lab`: its name there; live it decides behind a thin ext_proc server, or, if `is_envoys`, Envoy does the same.
    """

    name: str
    config: str | None = None  # "": picker's default
    lab: str = ""
    is_envoys: bool = False

    def gateway(self, seed: int) -> Gateway:
        """It in virtual time."""
        if self.lab:
            return PolicyGateway(LAB[self.lab](seed))
        config = load_config(self.config, source=self.name) if self.config else DEFAULT_CONFIG
        return CoreGateway(config, seed=seed, tells_cached=True)


WAYS = (
    Way("picker", config=""),
    Way("sglang-cache-aware", lab="sglang-cache-aware"),
    Way("llm-d blend, in picker", config=BLEND),
    Way("least-request", lab="least-request"),
    Way("round robin, Envoy's", lab="round-robin", is_envoys=True),
    Way("random, in picker", config=RANDOM),
)


def load(seed: int, seconds: float, rate: float = RATE) -> Load:
    """Groups that share 2,000 to 6,000 tokens each, too many for the cache of one server; arrivals by Poisson.

    The answers are short: each token is a message through Envoy, which shares the machine with everything else.
    """
    dice = random.Random(seed)
    names = count()
    shared = [[next(names) for _ in range(dice.randint(*PREFIX_BLOCKS))] for _ in range(GROUPS)]
    asked = []
    for index, at_s in enumerate(poisson((Stage(rate, seconds),), dice)):
        prefix, question_tokens = dice.choice(shared), dice.randint(*QUESTION_TOKENS)
        keys = (*prefix, *(next(names) for _ in range(-(-question_tokens // KEY_TOKENS))))
        prompt_tokens, answer_tokens = len(prefix) * KEY_TOKENS + question_tokens, dice.randint(*ANSWER_TOKENS)
        asked.append(Asked(index, at_s, prompt_tokens, answer_tokens, keys, max_tokens=answer_tokens))
    return Load("shared prefixes of many lengths", tuple(asked), KEY_TOKENS)
