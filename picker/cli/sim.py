"""Runs routing policies on a trace in virtual time: a simulated cluster around the production core.

`picker sim --trace FILE --policy picker,round-robin` prints a table: hit rate, balance, rejects and latency of each
policy, on the same requests and the same replicas. Latency is that of modelled engines: compare policies with it, not
hardware. But for wall time, runs of one seed do not differ.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from picker.cli.core import require_core
from picker.cli.flags import FlagParser, count, names
from picker.config.suggest import one_of, quoted
from picker.errors import UsageError
from picker.sim.failures import failure

if TYPE_CHECKING:
    from picker.sim.asked import Load
    from picker.sim.figures import Figures
    from picker.sim.lab import Lab
    from picker.sim.plot import Drawn

__all__ = ["configure", "run"]

WIDTH = 190


def configure(parser: FlagParser) -> None:
    """The flags of `picker sim`."""
    parser.flag("trace", help="the file with the requests")
    parser.flag("format", default="mooncake", help="of the trace; --list-policies says which there are")
    about = (
        "picker (its defaults), a policy of --list-policies, or FILE.yaml, an EndpointPickerConfig; picker,round-robin"
    )
    parser.several("policy", kind=names, help=about, metavar="NAME|FILE")
    parser.flag("replicas", kind=count, default=8, help="model servers")
    parser.flag(
        "blocks", kind=count, default=65_536, help="KV-cache blocks of each; 0: what fits into the GPU's memory"
    )
    parser.flag("block-size", kind=count, default=64, help="tokens per block")
    parser.several(
        "gpu", kind=names, help="of the replicas, in turn: a100, h100 (default), h200, mixed", metavar="NAME"
    )
    parser.flag("speedup", kind=pace, default=1.0, help="divides all times of the replicas")
    parser.flag("max-lora", kind=count, default=0, help="LoRA adapters that run at the same time on a replica")
    parser.flag("speed", kind=number, default=1.0, help="arrivals this many times as fast")
    parser.flag("load", kind=number, help="arrivals as fast as this share of what the replicas can do, measured first")
    parser.flag("closed", kind=count, default=0, help="clients of a closed loop; 0: requests come at their times")
    parser.flag("part", kind=part, default=(0.0, 1.0), help="of the trace, from share to share of its time: 0.5:1")
    parser.flag("limit", kind=count, default=0, help="requests of that part at most; 0: all")
    parser.several("failures", kind=failures, help="such as dead@600+60:0,slow@900+60x3:1/2", metavar="KIND@SECOND")
    parser.flag("seed", kind=count, default=1, help="of generated loads and of the policies' dice")
    parser.switch("tells-cached", help="model servers tell cached tokens in their usage")
    parser.switch("json", help="print one JSON object per policy, one a line, instead of the table")
    parser.flag("csv", help="write the figures to this file")
    parser.flag("plot", help="write pictures into this folder: latency.png, load.png, hits.png")
    parser.switch("list-policies", help="say which policies and formats there are")


def number(given: str) -> float:
    """Above 0."""
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{quoted(given)} is not a number above 0")
    return value


def pace(given: str) -> float:
    """From 0.001 to 1000: with less, a run would not end."""
    value = number(given)
    if not 1e-3 <= value <= 1e3:
        raise argparse.ArgumentTypeError(f"{quoted(given)} is not a number from 0.001 to 1000")
    return value


def part(given: str) -> tuple[float, float]:
    """Two shares, the first the smaller one."""
    first, colon, last = given.partition(":")
    try:
        begin, end = float(first or 0), float(last or 1)
    except ValueError:
        begin, end = 1.0, 0.0
    if not colon or not 0 <= begin < end <= 1:
        raise argparse.ArgumentTypeError(f"{quoted(given)} is not two shares of a whole, such as 0.5:1")
    return begin, end


def failures(given: str) -> tuple[Any, ...]:
    """With commas between."""
    try:
        return tuple(map(failure, given.split(",")))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def run(args: argparse.Namespace) -> int:
    """0 when all policies have run. Raises UsageError, and ConfigError for a file that is no configuration."""
    require_core()
    if args.list_policies:
        print(listed())
        return 0
    made = _lab(args)
    policies = args.policy or ("picker", "round-robin")
    _require_policies(policies)
    _require_places(args)
    found: list[Figures] = []
    drawn: list[Drawn] = []
    for policy in policies:
        figures = _played(made, policy, drawn if args.plot else None)
        found.append(figures)
        if args.json:
            print(json.dumps(figures.told(), allow_nan=False), flush=True)
    _leave(args, _title(made, args), found, drawn)
    return 0


def listed() -> str:
    """Names, with the first sentence of what each says of itself."""
    from picker.sim.policies import POLICIES
    from picker.sim.traces import FORMATS

    policies = {"picker": "The production core with its defaults"} | {
        name: _said(one) for name, one in POLICIES.items()
    }
    formats = {name: _first(sys.modules[read.__module__].__doc__) for name, read in FORMATS.items()}
    width = max(map(len, (*policies, *formats)))
    return "\n".join(
        [
            "policies:",
            *_columns(policies, width),
            "",
            "formats of --trace, or made without one:",
            *_columns(formats, width),
        ]
    )


def _said(policy: object) -> str:
    doc = policy.__doc__ or ""
    return _first(sys.modules[policy.__module__].__doc__ if "See the module" in doc else doc)


def _first(doc: str | None) -> str:
    return " ".join((doc or "").split()).partition(". ")[0].removesuffix(".")


def _columns(about: Mapping[str, str], width: int) -> list[str]:
    indent = " " * (width + 4)
    return [
        textwrap.fill(f"  {name:<{width}}  {text}", 120, subsequent_indent=indent, break_on_hyphens=False)
        for name, text in about.items()
    ]


def _load(args: argparse.Namespace) -> "Load":
    from picker.sim.traces import FORMATS

    if args.format not in FORMATS:
        raise UsageError(f"there is no format {quoted(args.format)}: {one_of(args.format, FORMATS)}")
    load = FORMATS[args.format](Path(args.trace) if args.trace else None, args.seed)
    load = load.part(*args.part)
    return (load.first(args.limit) if args.limit else load).scaled(args.speed)


def _lab(args: argparse.Namespace) -> "Lab":
    from picker.sim.lab import Pool, lab

    if not args.block_size:
        raise UsageError("blocks hold tokens: give --block-size 1 or more")
    cache_tokens = args.blocks * args.block_size
    pool = Pool(args.replicas, args.gpu or ("h100",), cache_tokens, args.max_lora, args.speedup)
    given = {"seed": args.seed, "clients": args.closed, "faults": args.failures, "tells_cached": args.tells_cached}
    made = lab(_load(args), pool, **given)
    if args.load and args.closed:
        raise UsageError("--load is of an open loop and --closed of a closed one: give one of them")
    return made.at_load(args.load) if args.load else made


def _require_policies(policies: Sequence[str]) -> None:
    """Before any has run."""
    from picker.sim.lab import gateway_of

    for policy in policies:
        gateway_of(policy, 1)


def _require_places(args: argparse.Namespace) -> None:
    """Nobody is to wait for a run whose figures cannot be written."""
    if args.csv and (Path(args.csv).is_dir() or not Path(args.csv).parent.is_dir()):
        raise UsageError(f"--csv {args.csv} cannot be written: name a file in a folder that is there")
    if args.plot and Path(args.plot).exists() and not Path(args.plot).is_dir():
        raise UsageError(f"--plot {args.plot} is a file: name a folder")


def _played(made: "Lab", policy: str, drawn: "list[Drawn] | None") -> "Figures":
    from picker.sim.plot import Drawn

    figures, outcome = made.run(policy)
    if drawn is not None:
        drawn.append(Drawn.of(figures, outcome))
    return figures


def _title(made: "Lab", args: argparse.Namespace) -> str:
    load, last_s = made.load, made.load.asked[-1].at_s
    rate = f"{len(load.asked) / last_s:.2f}/s" if last_s else "at once"
    coming = f"{args.closed} clients" if args.closed else rate
    kinds = ", ".join(dict.fromkeys(made.setting.gpus))
    ceiling = f"hit ceiling {made.ceiling:.3f}"
    return (
        f"{load.name}: {len(load.asked)} requests, {coming}, {len(made.setting.engines)} replicas ({kinds}), {ceiling}"
    )


def _leave(args: argparse.Namespace, title: str, found: "Sequence[Figures]", drawn: "Sequence[Drawn]") -> None:
    from picker.sim import plot, show

    if not args.json:
        Console(width=WIDTH).print(show.table(found, title))
    try:
        if args.csv:
            show.write_csv(Path(args.csv), found)
        if args.plot:
            plot.draw(drawn, title, Path(args.plot))
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'picker[demo]'") from None
