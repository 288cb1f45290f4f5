"""Measures picker under load and prints every figure beside its target: `python -m benchmarks.load [GROUP ...]`."""

import argparse
import sys
import time

from benchmarks.load import bench, registry, table, tools
from benchmarks.load.options import BUILD, Options, available
from benchmarks.load.processes import Others
from benchmarks.load.row import Row

TLS = {"both": (False, True), "off": (False,), "on": (True,)}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    made.add_argument("groups", nargs="*", metavar="GROUP", help="what to measure (default: all but soak)")
    made.add_argument("--list", action="store_true", help="say which groups there are")
    made.add_argument("--shell", action="append", choices=available(), help="only these (repeat; default: all)")
    made.add_argument("--tls", choices=TLS, default="both", help="plain connections to picker, TLS, or both")
    made.add_argument("--rounds", type=int, default=3, help="how often each figure is taken")
    made.add_argument("--publish", action="store_true", help="keep the figures as those that the docs show (make docs)")
    made.add_argument("--quick", action="store_true", help="one short round: shows that it works, measures nothing")
    return made


def measure(names: list[str], options: Options, others: dict[str, float]) -> tuple[list[Row], dict[str, str]]:
    """The rows, and what went wrong by group: one group that fails does not lose what the others found.

    `others` takes the share of the machine that other processes used during each group.
    """
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name in names:
        begun_s, beside = time.monotonic(), Others()
        bench.console.print(f"[bold]{name}[/]: {registry.about(name)}", soft_wrap=True)
        try:
            rows += registry.group(name)(options)
        except (RuntimeError, OSError) as failure:
            failures[name] = str(failure)
            bench.console.print(f"[bold red]{name} failed:[/] {failure}")
        others[name] = round(beside.share(), 3)
        bench.tell(f"{name} took {time.monotonic() - begun_s:.0f} s; others used {others[name]:.0%} of the machine")
    return rows, failures


def main() -> int:
    args = parser().parse_args()
    if args.list:
        for name in registry.names():
            print(f"{name:<10} {registry.about(name)}")
        return 0
    names = args.groups or [name for name in registry.names() if name not in registry.ON_REQUEST]
    unknown = [name for name in names if name not in registry.names()]
    if unknown:
        parser().error(f"no such group: {', '.join(unknown)} (there are {', '.join(registry.names())})")
    BUILD.mkdir(parents=True, exist_ok=True)
    around = table.circumstances()
    tools.build()
    rounds = 1 if args.quick else args.rounds
    shells = tuple(args.shell or available())
    options = Options(shells=shells, tls=TLS[args.tls], rounds=rounds, quick=args.quick)
    rows, failures = measure(names, options, around["others"])
    table.show(rows, around, failures)
    told = table.save(BUILD / "results.json", rows, around, failures)
    if args.publish:
        table.publish(told, "load")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
