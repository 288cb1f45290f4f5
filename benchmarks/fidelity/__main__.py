"""Live against virtual time: `python -m benchmarks.fidelity`; writes docs/fidelity.md.

Six model servers in real time behind a real Envoy, and the same six in the lab, get the same requests under each
policy. The command fails when TTFT p50 of a policy differs by more than 15 %, or when policies come in another order.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.fidelity import live, plot, scene, verdict
from benchmarks.fidelity.scene import WAYS, Way
from picker.sim import figures
from picker.sim.asked import Load
from picker.sim.world import Outcome, Setting, World

PAGE = results.ROOT / "docs" / "fidelity.md"
PLOT = results.ROOT / "docs" / "fidelity.png"
BUSY = 0.9  # of the machine: from here on a live run tells of the machine too
console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    made = argparse.ArgumentParser("python -m benchmarks.fidelity", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--seeds", type=int, default=2, help="how many loads are played")
    made.add_argument("--seconds", type=float, default=40.0, help="how long each load goes on")
    made.add_argument("--policy", action="append", choices=[way.name for way in WAYS], help="only these (repeat)")
    made.add_argument("--quick", action="store_true", help="one short load: shows that it works, and writes nothing")
    args = made.parse_args()
    seeds, seconds = (1, 8.0) if args.quick else (args.seeds, args.seconds)
    ways = [way for way in WAYS if not args.policy or way.name in args.policy]
    with tempfile.TemporaryDirectory(prefix="picker-fidelity-") as directory:
        pairs, curves = asyncio.run(compare(ways, range(1, seeds + 1), seconds, Path(directory)))
    console.print("\n".join(verdict.table(verdict.rows(pairs))))
    objections = [f"{pair.name}: TTFT p50 is {pair.ratio:.2f} times as long live" for pair in pairs if not pair.agrees]
    objections += [*verdict.disorder(pairs), *verdict.disorder(pairs, "mean")]
    console.print("\n".join(objections) or "both worlds agree")
    if not args.quick and not args.policy:
        results.write("fidelity", verdict.rows(pairs))
        plot.draw(curves, PLOT)
        write(pairs, objections)
    return 1 if objections and not args.quick else 0


async def compare(
    ways: Sequence[Way], seeds: Sequence[int], seconds: float, directory: Path
) -> tuple[list[verdict.Pair], plot.Curves]:
    """Every policy on every load in both worlds. RuntimeError for requests that were lost."""
    servers = live.Servers(directory)
    found: dict[str, tuple[list[figures.Figures], list[figures.Figures], list[float]]] = {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    try:
        servers.wait_ready()
        for seed in seeds:
            load = scene.load(seed, seconds)
            for way in ways:
                played = await live.play(servers, way, load, seed, directory)
                lab = virtual(way, load, seed)
                one, other = told(way, played.outcome, load), told(way, lab, load)
                if played.errors or one.rejected:
                    raise RuntimeError(f"{way.name}: {one.rejected} requests refused, errors {played.errors[:3]}")
                say(way, seed, one, other, played)
                lives, labs, machine = found.setdefault(way.name, ([], [], []))
                lives.append(one)
                labs.append(other)
                machine.append(played.machine)
                _add(curves.setdefault(way.name, ([], [])), played.outcome, lab)
    finally:
        servers.stop()
    return [verdict.Pair(name, *both) for name, both in found.items()], curves


def virtual(way: Way, load: Load, seed: int) -> Outcome:
    """The run in the lab."""
    setting = Setting((scene.ENGINE,) * scene.SERVERS, seed=seed)
    return World(setting, load, way.gateway(seed)).run()


def told(way: Way, outcome: Outcome, load: Load) -> figures.Figures:
    """By the same arithmetic for both."""
    return figures.figures(way.name, outcome, figures.ceiling(load), 0.0)


def say(way: Way, seed: int, one: figures.Figures, other: figures.Figures, played: live.Played) -> None:
    lag_ms = max(played.lag_s) * 1e3
    p50 = f"TTFT p50 {one.ttft_ms.p50:.0f} ms live, {other.ttft_ms.p50:.0f} ms in virtual time"
    hit = f"hit {one.hit_rate:.2f}, {other.hit_rate:.2f}"
    full = ": TOO BUSY" if played.machine > BUSY else ""
    console.print(
        f"{way.name}, load {seed}: {one.requests} requests, {p50}, {hit}; machine {played.machine:.0%} busy{full}, "
        f"sent at most {lag_ms:.0f} ms late",
        style="dim",
    )


def _add(curves: tuple[list[float], list[float]], one: Outcome, other: Outcome) -> None:
    for curve, outcome in zip(curves, (one, other), strict=True):
        curve += [story.ttft_s for story in outcome.stories if story.first_s >= 0]


def write(pairs: Sequence[verdict.Pair], objections: Sequence[str]) -> None:
    """The table on the page, between its marks."""
    busy = [share for pair in pairs for share in pair.machine]
    said = f"{results.machine()}, commit {results.commit()}; the machine was {min(busy):.0%} to {max(busy):.0%} busy."
    agreed = "; ".join(objections) or "Both worlds agree."
    text = "\n".join([f"Measured on {said} {agreed}", "", *verdict.table(verdict.rows(pairs))])
    PAGE.write_text(results.placed(PAGE.read_text(), "fidelity", f"\n{text}\n"))


if __name__ == "__main__":
    sys.exit(main())
