"""Overload in virtual time, through the production core: `python -m benchmarks.overload [--seeds 3] [--only NAME] ...`

Eight simulated replicas, three bands, one greedy tenant of ten; 0.7 times what the replicas can do, then twice that,
then 0.7 again; picker with its defaults, round robin, and a model of the reference picker's flow control. Prints a
table for each scenario, writes CSV, JSON and a plot, and with `--docs` the tables of docs/overload.md. Deterministic
for its seeds. What the replicas can do is measured first: the most they serve when they are always full.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import overload_plot, overload_report
from benchmarks.overload_runs import GATEWAYS, Result, experiment
from benchmarks.results import placed
from picker.sim.overload.traffic import A100, CHAT, ENGINES, MIXES, Phase, Scenario
from picker.sim.world import Fault

PAIRS = (
    ("A100", "short"),
    ("A100", "chat"),
    ("A100", "answers"),
    ("H100", "chat"),
    ("H100", "long"),
    ("H100", "prompts"),
)
PHASES = (Phase(20.0, 0.7), Phase(40.0, 2.0), Phase(60.0, 0.7))
FAULT_PHASES = (Phase(20.0, 0.7), Phase(50.0, 1.5), Phase(20.0, 0.7))
FAULTS = {
    "metrics stop for 30 s": Fault("metrics", 30.0, 30.0),
    "an endpoint dies": Fault("dead", 35.0, 0.0, slots=(3,)),
    "all at half speed for 20 s": Fault("slow", 35.0, 20.0, factor=2.0),
}
DOCS = Path(__file__).parents[1] / "docs" / "overload.md"


def scenarios() -> list[Scenario]:
    return [
        Scenario(f"{engine}, {mix}", engine=ENGINES[engine], mix=MIXES[mix], phases=PHASES) for engine, mix in PAIRS
    ]


def faults() -> list[Scenario]:
    return [
        Scenario(name, engine=A100, mix=CHAT, phases=FAULT_PHASES, faults=(fault,)) for name, fault in FAULTS.items()
    ]


def fault_rows(results: Sequence[Result]) -> str:
    """What became of requests while things broke."""
    lines = [
        "| fault | policy | longest stall | failed | lost or doubled | TTFT p99 of the highest band | of capacity |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        failed = sum(band.failed for band in result.run.bands)
        first = overload_report.milliseconds(result.run.bands[0].ttft_p99_s)
        lines.append(
            f"| {result.scenario} | {result.policy} | {result.stall_s:.2f} s | {failed} | {result.lost} | {first}"
            f" | {result.run.share:.1%} |"
        )
    return "\n".join(lines)


def _after(seconds: float | None) -> str:
    return f"not in {PHASES[-1].seconds:.0f} s" if seconds is None or math.isinf(seconds) else f"{seconds:.1f} s"


def verdict_rows(results: Sequence[Result]) -> str:
    """What must show, of picker."""
    lines = [
        "| scenario | TTFT p99 of the highest band, alone | at twice the load | × | goodput of capacity | nobody waits"
        " after | engines as before after | longest stall |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        alone, loaded = map(overload_report.milliseconds, (result.alone_p99_s, result.run.bands[0].ttft_p99_s))
        lines.append(
            f"| {result.scenario} | {alone} | {loaded} | {result.times_alone:.2f} | {result.run.share:.1%}"
            f" | {_after(result.relief_s)} | {_after(result.run.recovery_s)} | {result.stall_s:.2f} s |"
        )
    return "\n".join(lines)


def scenario_text(results: Sequence[Result]) -> str:
    """A heading and the table of one scenario."""
    return (
        f"### {results[0].scenario}\n\n{overload_report.markdown([one.run for one in results], results[0].alone_p99_s)}"
    )


def played(scenario: Scenario, policies: Sequence[str], seeds: Sequence[int], *, alone: bool) -> list[Result]:
    results = []
    for policy in policies:
        started = time.perf_counter()
        results.append(experiment(scenario, policy, seeds, alone=alone and policy == policies[0]))
        print(f"{scenario.name}: {policy}, {time.perf_counter() - started:.0f} s", flush=True)
    runs = [replace(one.run, name=one.policy) for one in results]
    Console(width=170).print(overload_report.table(runs, scenario.name, results[0].alone_p99_s))
    return results


def write(results: Sequence[Sequence[Result]], broken: Sequence[Result], out: Path, seeds: Sequence[int]) -> None:
    """CSV, JSON and the plot of the first scenario."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"scenario": one.scenario, "stall_s": one.stall_s, "lost": one.lost, "alone_p99_s": one.alone_p99_s, **row}
        for one in [*(result for group in results for result in group), *broken]
        for row in overload_report.as_rows([one.run])
    ]
    (out / "overload.json").write_text(json.dumps(rows, indent=1))
    overload_report.write_csv(out / "overload.csv", [one.run for group in results for one in group])
    for group in results[:1]:
        subtitle = (
            f"{group[0].scenario}: 8 simulated replicas, 0.7, then 2.0, then 0.7 times their capacity; seed {seeds[0]}"
        )
        overload_plot.draw(
            [one.run for one in group], {one.policy: one.outcomes for one in group}, subtitle, out / "overload.png"
        )


def write_docs(results: Sequence[Sequence[Result]], broken: Sequence[Result]) -> None:
    page = DOCS.read_text()
    page = placed(page, "verdict", verdict_rows([group[0] for group in results]))
    page = placed(page, "scenarios", "\n\n".join(map(scenario_text, results)))
    page = placed(page, "faults", fault_rows(broken))
    DOCS.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="scenarios whose name holds this")
    parser.add_argument("--policies", nargs="+", default=list(GATEWAYS), choices=list(GATEWAYS))
    parser.add_argument("--out", type=Path, default=Path("build/overload"))
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/overload.md, and its plot")
    args = parser.parse_args()
    seeds = range(1, args.seeds + 1)
    chosen = [one for one in scenarios() if not args.only or args.only in one.name]
    results = [played(one, args.policies, seeds, alone=True) for one in chosen]
    breaking = [one for one in faults() if not args.only or args.only in one.name]
    broken = [result for one in breaking for result in played(one, args.policies, seeds[:1], alone=False)]
    print(verdict_rows([group[0] for group in results]))
    print(fault_rows(broken))
    write(results, broken, DOCS.parent if args.docs else args.out, seeds)
    if args.docs:
        write_docs(results, broken)


if __name__ == "__main__":
    main()
