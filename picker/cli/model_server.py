"""`picker model-server`: a simulated vLLM server to try picker against."""

import argparse
import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from picker.sim.engine import EngineConfig
from picker.sim.exposition import STYLES
from picker.sim.faults import Faults
from picker.sim.gpus import GPUS
from picker.sim.model_server import ModelServer, ServerConfig, serve

USAGE_ERROR = 2
LIMITS = {
    "max_lora": "adapters running at the same time",
    "num_blocks": "KV-cache blocks",
    "block_size": "tokens per block",
    "max_num_seqs": "sequences per step",
    "max_num_batched_tokens": "tokens per step",
}
"""Of `EngineConfig`, each a flag."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one and prints it")
    parser.add_argument("--model", default="sim", help="name of the base model")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME", help="adapter loaded at start (repeat)")
    parser.add_argument("--metrics", choices=sorted(STYLES), default="vllm", help="whose metric names /metrics uses")
    parser.add_argument("--seed", type=int, default=0, help="of the error dice")
    group = parser.add_argument_group("engine")
    group.add_argument("--gpu", choices=sorted(GPUS), help="times and memory of this one; what follows changes them")
    for name, what in LIMITS.items():
        flag = f"--{name.replace('_', '-')}"
        default = getattr(EngineConfig, name)
        group.add_argument(flag, type=int, help=f"{what} (default: {default}, or the GPU's)")
    group.add_argument("--speedup", type=float, default=1.0, help="divides all times of the engine")
    parser.add_argument(
        "--stream-interval", type=int, default=1, help="tokens in a chunk of a stream, after the first one"
    )
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="append what becomes of each request that has an x-journal-id"
    )
    faults = parser.add_argument_group("faults (also: POST /admin/faults)")
    faults.add_argument("--error-rate", type=float, default=0.0, help="share of requests that fail, 0 to 1")
    faults.add_argument("--error-status", type=int, default=500, help="status of those that fail")
    faults.add_argument("--hang", action="store_true", help="accept requests and never answer")
    faults.add_argument("--slow-metrics-s", type=float, default=0.0, help="delay of /metrics, seconds")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. 0 after that, 2 for settings that make no sense or an address in use."""
    try:
        config = _config(args)
        return uvloop.run(_serve(config, args.host, args.port))
    except (ValueError, OSError) as error:
        print(f"picker model-server: {error}", file=sys.stderr)
        return USAGE_ERROR


def _config(args: argparse.Namespace) -> ServerConfig:
    engine = GPUS[args.gpu] if args.gpu else EngineConfig()
    given = {name: value for name in LIMITS if (value := getattr(args, name)) is not None}
    engine = replace(engine, **given, timing=replace(engine.timing, speedup=args.speedup))
    faults = Faults(
        error_status=args.error_status,
        error_rate=args.error_rate,
        hang=args.hang,
        slow_metrics_s=args.slow_metrics_s,
    )
    return ServerConfig(
        args.model,
        tuple(args.lora),
        engine,
        args.metrics,
        args.seed,
        faults,
        journal=args.journal,
        stream_interval=args.stream_interval,
    )


async def _serve(config: ServerConfig, host: str, port: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with serve(ModelServer(config), host, port) as address:
        print(f"listening on {address}", flush=True)
        await stop.wait()
    return 0
