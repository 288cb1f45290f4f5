import random
from typing import Any

import pytest

from picker._core.score import Pipeline

SECOND = 1_000_000_000
BEST = (30, 0.0, (), 0)
PEERS = [(10, 2.0, (), 0), (12, 2.0, (), 0), (13, 3.0, (0.0, 8192.0), 0), (14, 1.0, (), 0), BEST]
DEFAULT = [(19, 1.0, (0.01, 500.0), 0), BEST]


def endpoint(draw: random.Random) -> dict[str, Any]:
    """A busy replica that was scraped within the last second and whose rate has been learned."""
    return {
        "waiting": draw.randrange(10),
        "running": draw.randrange(60),
        "kv_usage": draw.random(),
        "max_lora": 4,
        "running_adapters": draw.sample(["a", "b", "c", "d"], 2),
        "scraped_ns": 100 * SECOND + draw.randrange(SECOND),
        "requests": draw.randrange(60),
        "prefill_tokens": draw.randrange(50_000),
        "resident_tokens": draw.randrange(200_000),
        "prefill_rate": draw.uniform(5_000, 30_000),
        "rate_ns": 90 * SECOND + draw.randrange(10 * SECOND),
    }


@pytest.mark.parametrize("endpoints", [256, 1024])
@pytest.mark.parametrize(
    ("name", "steps"), [("queue + kv + prefix + lora", PEERS), ("default, time to first token", DEFAULT)]
)
def test_score(name: str, steps: Any, endpoints: int, seconds, target) -> None:
    draw = random.Random(endpoints)
    pipeline = Pipeline(steps, [endpoint(draw) for _ in range(endpoints)], seed=1)
    match = [draw.randrange(100) for _ in range(endpoints)]
    assert pipeline.run(match, prompt_tokens=8192, model="a", now_ns=101 * SECOND)
    target(f"score: {name}, {endpoints:,} endpoints", seconds(pipeline.rerun) * 1e6, 5 * endpoints // 256, "us")
