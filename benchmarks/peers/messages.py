"""What `pick` needs of this environment: what Envoy sends for its prompts, and picker's default policy, compiled.

The peers' environment has neither xds-protos nor what reads configuration.
"""

import base64
import json
import random
from pathlib import Path

from picker.config.model import DEFAULT_CONFIG
from picker.demo.workload import WORDS
from picker.policy.compile import compile_policy
from tests.support import messages

BLOCK, BLOCKS, PROMPTS = 16, (32, 512), 256
BYTES_PER_TOKEN = 4


def write_policy(path: Path) -> None:
    """What `picker serve` sets its engine to by default, as a Python literal."""
    policy = compile_policy(DEFAULT_CONFIG)
    path.write_text(repr({"prior_rate": policy.prior_rate, "steps": policy.steps, "flow": policy.flow}))


def write(path: Path) -> None:
    """All exchanges as JSON: name to headers, body (base64) and bytes of the body."""
    told = {}
    for blocks in BLOCKS:
        for number, tokens in enumerate(token_prompts(blocks)):
            told[f"{blocks} ids {number}" if number else f"{blocks} ids"] = _exchange(tokens)
        told[f"{blocks} text"] = _exchange(_text(blocks * BLOCK * BYTES_PER_TOKEN))
    path.write_text(json.dumps(told))


def token_prompts(blocks: int) -> list[list[int]]:
    """The same as `pick.prompts`."""
    dice = random.Random(blocks)
    return [[dice.randrange(128_000) for _ in range(BLOCK * blocks)] for _ in range(PROMPTS)]


def _text(size: int) -> str:
    dice = random.Random(1)
    return " ".join(dice.choice(WORDS) for _ in range(size // 5))[:size]


def _exchange(prompt: str | list[int]) -> tuple[str, str, int]:
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 16}).encode()
    headers = messages.request_headers(headers={":path": "/v1/completions", "content-length": str(len(body))})
    encoded = (base64.b64encode(part).decode() for part in (headers, messages.request_body(body)))
    return (*encoded, len(body))
