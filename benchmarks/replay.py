"""Replays the Mooncake conversation trace in virtual time: each request goes through the whole core, as ext_proc bytes.

`python -m benchmarks.replay [--endpoints 8] [--cache-tokens 4194304] [--speedup 1] [--limit N] [--config FILE]`
prints hit rate, work balance and TTFT of each policy. Latency comes from a modelled engine: compare policies with it,
not hardware. Deterministic.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from picker._core import session as core
from picker._core.engine import Engine
from picker.config.load import load_config
from picker.config.model import DEFAULT_CONFIG, PickerConfig
from picker.policy.compile import compile_policy
from picker.sim.replay import (
    TRACE_BLOCK_TOKENS,
    LongestPrefix,
    Policy,
    Random,
    ReplayResult,
    RoundRobin,
    TraceRequest,
    engine_config,
    load_trace,
    replay,
)
from tests.support import messages
from tests.support.shared import SHARED

TRACE = SHARED / "traces" / "mooncake_conversation.jsonl"
CHARACTERS_PER_TOKEN = 4
FIRST_CHUNK = messages.response_body(b'data: {"choices":[{"text":"a"}]}\n\n')
STREAM = messages.response_headers()
START_NS = 1_000_000_000


def block_text(key: int) -> bytes:
    """The text of a trace block: 512 tokens of 4 bytes, no two blocks alike."""
    return (b"%015x " % key) * (TRACE_BLOCK_TOKENS * CHARACTERS_PER_TOKEN // 16)


class CorePolicy:
    """picker itself: sessions on an engine, in the trace's time."""

    def __init__(self, endpoints: int, cache_tokens: int, config: PickerConfig = DEFAULT_CONFIG) -> None:
        policy = compile_policy(config)
        self.engine = Engine(hash_seed=1, random_seed=1, prior_rate=policy.prior_rate)
        self.engine.set_policy(policy.steps, wanted=policy.wanted)
        self.slots: dict[str, int] = {}
        for number in range(endpoints):
            target = f"10.0.0.{number}:8000"
            slot, generation = self.engine.add_endpoint(target, f"10.0.0.{number}")
            self.engine.observe(slot, generation, now_ns=START_NS, cache_tokens=cache_tokens)
            self.slots[target] = slot
        self.sessions: dict[int, core.Session] = {}
        self.headers = messages.request_headers("/v1/completions")

    def choose(self, request: TraceRequest, now_s: float) -> int:
        session = core.Session(self.engine, self.ns(now_s))
        self.sessions[request.index] = session
        size = request.prompt_tokens * CHARACTERS_PER_TOKEN
        prompt = b"".join(map(block_text, request.keys))[:size]
        body = b'{"model":"m","stream":true,"max_tokens":%d,"prompt":"%s"}' % (request.output_tokens, prompt)
        session.feed(self.headers, self.ns(now_s))
        session.feed(messages.request_body(body), self.ns(now_s))
        return self.slots[session.destination]

    def first_token(self, request: TraceRequest, slot: int, now_s: float, cached_tokens: int) -> None:
        session = self.sessions[request.index]
        session.feed(STREAM, self.ns(now_s))
        session.feed(FIRST_CHUNK, self.ns(now_s))

    def finished(self, request: TraceRequest, slot: int, now_s: float) -> None:
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'
        session = self.sessions.pop(request.index)
        last = usage % (request.prompt_tokens, request.output_tokens)
        session.feed(messages.response_body(last, end_of_stream=True), self.ns(now_s))
        session.close(self.ns(now_s))

    @staticmethod
    def ns(now_s: float) -> int:
        return START_NS + int(now_s * 1e9)


def run(
    trace: Sequence[TraceRequest], policy: Policy, *, endpoints: int, cache_tokens: int, speedup: float
) -> ReplayResult:
    return replay(trace, policy, engines=endpoints, config=engine_config(cache_tokens), arrival_speedup=speedup)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=8)
    parser.add_argument("--cache-tokens", type=int, default=4 << 20, help="KV cache of each endpoint")
    parser.add_argument("--speedup", type=float, default=1.0, help="of arrivals")
    parser.add_argument("--limit", type=int, default=1_000_000, help="requests at most")
    parser.add_argument("--config", type=Path, help="an EndpointPickerConfig instead of the default policy")
    parser.add_argument("--only", help="one policy")
    args = parser.parse_args()
    trace = load_trace(TRACE, args.limit)
    config = load_config(args.config.read_text(), source=str(args.config)) if args.config else DEFAULT_CONFIG
    policies: dict[str, Policy] = {
        "round robin": RoundRobin(args.endpoints),
        "random": Random(args.endpoints),
        "longest prefix (naive)": LongestPrefix(args.endpoints),
        "picker": CorePolicy(args.endpoints, args.cache_tokens, config),
    }
    for name, policy in policies.items():
        if args.only and args.only != name:
            continue
        started = time.perf_counter()
        result = run(trace, policy, endpoints=args.endpoints, cache_tokens=args.cache_tokens, speedup=args.speedup)
        print(f"{name:<24} {result}  ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
