import random
from typing import Any

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.exchanges import DEFAULT
from picker._core.score import Pipeline

SECOND = 1_000_000_000
BEST = (30, 0.0, (), 0)
PEERS = [(10, 2.0, (), 0), (12, 2.0, (), 0), (13, 3.0, (0.0, 8192.0), 0), (14, 1.0, (), 0), BEST]


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


def scoring(steps: Any, endpoints: int) -> Action:
    draw = random.Random(endpoints)
    pipeline = Pipeline(steps, [endpoint(draw) for _ in range(endpoints)], seed=1)
    match = [draw.randrange(100) for _ in range(endpoints)]
    if not pipeline.run(match, prompt_tokens=8192, model="a", now_ns=101 * SECOND):
        raise AssertionError("nobody was chosen")
    return pipeline.rerun


NAMED = [("queue + kv + prefix + lora", PEERS), ("default, time to first token", DEFAULT)]
LIMITS = {8: None, 256: 5.0, 1024: 20.0, 4096: None}
CASES = [
    Case(f"score: {name}, {endpoints:,} endpoints", lambda steps=steps, n=endpoints: scoring(steps, n), limit=limit)
    for name, steps in NAMED
    for endpoints, limit in LIMITS.items()
]
GROWTHS = [
    Growth(f"score: {name}, n endpoints", lambda n, steps=steps: scoring(steps, n), 128, "n") for name, steps in NAMED
]
