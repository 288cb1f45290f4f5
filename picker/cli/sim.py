"""Runs routing policies on a trace in virtual time: a simulated cluster around the production core.

`picker sim --trace FILE --policy picker,round-robin` prints a table: hit rate, balance, rejects and latency of each
policy, on the same requests and the same replicas. Latency is that of modelled engines: compare policies with it, not
hardware. Nothing but wall time differs from run to run of a seed.
"""

import argparse
import json
from pathlib import Path

from picker.cli.core import require_core
from picker.cli.flags import FlagParser, count, names
from picker.errors import UsageError

__all__ = ["configure", "run"]


def configure(parser: FlagParser) -> None:
    """The flags of `picker sim`."""
    parser.flag("trace", help="the file with the requests")
    parser.flag(
        "format", default="mooncake", help="of the trace: mooncake, azure, shared-prefix, ... (--list-policies)"
    )
    parser.several(
        "policy", kind=names, help="picker, a policy of --list-policies, or FILE.yaml with an EndpointPickerConfig; "
        "several with commas (default picker,round-robin)", metavar="NAMES",
    )  # fmt: skip
    parser.flag("replicas", kind=count, default=8, help="model servers")
    parser.flag(
        "blocks", kind=count, default=65_536, help="KV-cache blocks of each; 0: what fits into the GPU's memory"
    )
    parser.flag("block-size", kind=count, default=64, help="tokens per block")
    parser.several(
        "gpu", kind=names, help="of the replicas, in turn: a100, h100, h200, a100-40gb, mixed", metavar="NAMES"
    )
    parser.flag("speed", kind=number, default=1.0, help="arrivals this many times as fast")
    parser.flag("closed", kind=count, default=0, help="clients of a closed loop; 0: requests come at their times")
    parser.flag("part", kind=part, default=(0.0, 1.0), help="of the trace, from share to share of its time: 0.5:1")
    parser.flag("limit", kind=count, default=0, help="requests at most; 0: all")
    parser.flag("max-lora", kind=count, default=0, help="LoRA adapters that run at the same time on a replica")
    parser.flag("seed", kind=count, default=1, help="of generated loads and of the policies' dice")
    parser.switch("tells-cached", help="model servers tell cached tokens in their usage")
    parser.switch("json", help="one JSON object per policy, one a line")
    parser.switch("list-policies", help="say which policies and formats there are")


def number(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number above 0")
    return value


def part(given: str) -> tuple[float, float]:
    first, colon, last = given.partition(":")
    try:
        begin, end = float(first or 0), float(last or 1)
    except ValueError:
        begin, end = 1.0, 0.0
    if not colon or not 0 <= begin < end <= 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not two shares of a whole, such as 0.5:1")
    return begin, end


def run(args: argparse.Namespace) -> int:
    """0 when all policies have run. Raises UsageError, and ConfigError for a file that is no configuration."""
    require_core()
    from picker.sim import lab
    from picker.sim.asked import Load
    from picker.sim.traces import FORMATS

    if args.format not in FORMATS:
        raise UsageError(f"there is no format {args.format!r}: use one of {', '.join(FORMATS)}")
    load: Load = FORMATS[args.format](Path(args.trace) if args.trace else None, args.seed)
    if args.limit:
        load = Load(load.name, load.asked[: args.limit], load.key_tokens)
    load = load.part(*args.part).scaled(args.speed)
    cache_tokens = args.blocks * args.block_size
    setting = lab.engines(args.gpu or ("h100",), args.replicas, cache_tokens, load.key_tokens, args.max_lora)
    made = lab.lab(load, setting, seed=args.seed, clients=args.closed)
    policies = args.policy or ("picker", "round-robin")
    for policy in policies:
        lab.gateway_of(policy, args.seed)
    for policy in policies:
        figures, _ = made.run(policy)
        print(json.dumps(figures.told()), flush=True)
    return 0
