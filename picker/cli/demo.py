"""`picker demo`: round robin against picker on this machine, through a real Envoy."""

import argparse
from pathlib import Path

from rich.console import Console

from picker.demo.run import Settings
from picker.demo.run import run as run_demo

USAGE_ERROR = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--duration", type=float, default=50.0, help="seconds of load, both halves together")
    parser.add_argument("--endpoints", type=int, default=6, help="model servers")
    parser.add_argument("--output", type=Path, default=Path("demo-picker.png"), help="where the plot goes (PNG)")
    parser.add_argument("--seed", type=int, default=0, help="of the load")
    parser.add_argument(
        "--shell", choices=("wire", "grpcio", "auto"), default="auto", help="picker's, as of `picker serve`"
    )
    parser.add_argument("--keep", action="store_true", help="stay up afterwards and print a curl line")


def run(args: argparse.Namespace) -> int:
    """0 if all went without an error, 1 otherwise, 2 for settings that make no sense, 130 when interrupted."""
    console = Console()
    if args.duration <= 0 or not 1 <= args.endpoints <= 64:
        console.print("picker demo: --duration must be positive and --endpoints from 1 to 64")
        return USAGE_ERROR
    settings = Settings(args.duration, args.endpoints, args.output, args.seed, args.keep, args.shell)
    return run_demo(settings, console)
