"""Overload, live: `python -m benchmarks.live_overload`, or `make live-overload`.

Simulated model servers and pickers in their own processes, a real Envoy, and an open-loop client of three bands and ten
tenants, one of them greedy. First what the servers can do. Then `burst`: the highest band alone, and twice as much as
they can do under each policy, between quiet times. Then `faults` in the middle of overload, under picker. Ends with
tables; a PNG, a CSV and a JSON file lie in the output folder.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks import overload_plot, overload_report
from benchmarks.live_overload import experiment, faults
from benchmarks.live_overload.experiment import Experiment, Settings
from benchmarks.live_overload.stage import Size, staged
from benchmarks.load.table import circumstances
from benchmarks.results import placed
from picker.sim.gpus import GPUS

PARTS = ("burst", "faults")
console = Console(highlight=False) if sys.stdout.isatty() else Console(width=170, highlight=False)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.live_overload", description=__doc__)
    made.add_argument("parts", nargs="*", metavar="PART", help="burst, faults (default: both)")
    made.add_argument("--servers", type=int, default=Size.servers)
    made.add_argument("--gpu", choices=sorted(GPUS), default=Size.gpu, help="that a server plays")
    made.add_argument("--speed", type=float, default=Size.speed, help="of a server, 1 is as fast as that")
    made.add_argument("--load", type=float, default=2.0, help="what is offered, over what the servers can do")
    made.add_argument("--policy", action="append", choices=[policy.name for policy in experiment.POLICIES])
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--output", type=Path, default=Path("build/live-overload"), help="folder of the files")
    made.add_argument("--write", type=Path, metavar="FILE", help="put the tables where FILE marks a place for them")
    made.add_argument("--quick", action="store_true", help="shows that it works, measures little")
    return made


async def measure(args: argparse.Namespace, directory: Path) -> Experiment:
    names = args.policy or [policy.name for policy in experiment.POLICIES[:-1]]
    policies = [policy for policy in experiment.POLICIES if policy.name in names]
    settings = Settings.quick(args.load, args.seed) if args.quick else Settings(args.load, args.seed)
    with staged(directory, policies, Size(args.servers, args.gpu, args.speed)) as stage:
        return await experiment.perform(stage, policies, settings, console, args.parts)


def report(found: Experiment, args: argparse.Namespace) -> None:
    """Tables on the terminal; files; a page if one is named."""
    args.output.mkdir(parents=True, exist_ok=True)
    title = f"{args.load:g} times what {args.servers} model servers can do"
    page = []
    if found.runs:
        console.print(overload_report.table(found.runs, title, found.unloaded_p99_s))
        page += [overload_report.markdown(found.runs, found.unloaded_p99_s), *(f"- {line}" for line in found.notes)]
        subtitle = f"{title} ({found.capacity:,.0f} tokens/s); three bands, ten tenants, one of them greedy; live"
        overload_plot.draw(found.runs, found.outcomes, subtitle, args.output / "overload.png")
        overload_report.write_csv(args.output / "overload.csv", found.runs)
    if found.seen:
        console.print(faults.table(found.seen))
        page += ["", faults.markdown(found.seen)]
    for line in found.notes:
        console.print(line, soft_wrap=True)
    around = circumstances()
    rows = overload_report.as_rows(found.runs)
    told = {"circumstances": around, "rows": rows, "faults": faults.as_rows(found.seen), "notes": found.notes}
    (args.output / "overload.json").write_text(json.dumps(told, indent=1) + "\n")
    console.print(f"Files: {args.output}/overload.*")
    if args.write:
        where = (
            f"{around['cpus']} CPUs, Linux {around['kernel']}, Python {around['python']}, commit {around['commit']}."
        )
        text = "\n".join([where, "", *page])
        args.write.write_text(placed(args.write.read_text(), "live overload", text))


def main(words: Sequence[str]) -> int:
    """0, or 1 if requests were lost, answered twice or served though they had been refused."""
    args = parser().parse_args(words)
    args.parts = args.parts or list(PARTS)
    if unknown := set(args.parts) - set(PARTS):
        parser().error(f"no such part: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="picker-live-") as directory:
        found = uvloop.run(measure(args, Path(directory)))
    report(found, args)
    return 1 if found.is_faulty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
