"""Routing quality in virtual time: `make sim`, or `python -m benchmarks.sim [--only NAME] [--docs] ...`.

The policies of the lab (`picker sim --list-policies`) on a public trace and three generated loads, each at several
loads, and on larger and mixed fleets. Prints a table for each, writes JSON and CSV, and with `--docs` the tables and
pictures of docs/routing-quality.md and benchmarks/results/sim.json. Deterministic but for wall time.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.results import placed
from picker.sim import plot, show
from picker.sim.asked import Load
from picker.sim.figures import Figures
from picker.sim.lab import PICKER, Lab, Pool, lab
from picker.sim.policies import POLICIES
from picker.sim.traces import agentic, mooncake, shared_prefix, zero_reuse
from picker.sim.traces.dice import Stage

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("PICKER_SHARED", ROOT.parent / "shared"))
TRACE = SHARED / "traces" / "mooncake_conversation.jsonl"
DOCS = ROOT / "docs" / "routing-quality.md"
PICTURES = ROOT / "docs" / "routing-quality"
COMMAND = "make sim"
SEED = 11  # of generated loads; the policy was chosen on others
SECONDS = 300.0  # of generated loads before they are brought to the rate that is asked for


EIGHT = Pool()
MIXED = Pool(9, ("mixed",))


@dataclass(frozen=True)
class Scenario:
    """`share`: of what the replicas can do; 0 for the load's own times."""

    name: str
    load: Callable[[], Load]
    pool: Pool = EIGHT
    share: float = 0.0
    speed: float = 1.0
    clients: int = 0
    part: tuple[float, float] = (0.0, 1.0)

    def lab(self) -> Lab:
        load = self.load().part(*self.part).scaled(self.speed)
        made = lab(load, self.pool, clients=self.clients)
        return made.at_load(self.share) if self.share else made


def conversation() -> Load:
    return mooncake.read(TRACE, SEED)


def prefixes() -> Load:
    shape = replace(shared_prefix.SHARED_PREFIX, stages=(Stage(10.0, SECONDS),))
    return shared_prefix.generate(shape, SEED)


def agents() -> Load:
    return agentic.generate(agentic.AGENTIC, SEED)


def strangers() -> Load:
    return zero_reuse.generate(replace(zero_reuse.ZERO_REUSE, stages=(Stage(20.0, SECONDS),)), SEED)


SHARES = (0.5, 0.8, 0.95)
SCENARIOS = [
    Scenario("conversation, 1x", conversation),
    Scenario("conversation, 4x", conversation, speed=4.0),
    Scenario("conversation, closed loop of 128", conversation, clients=128),
    Scenario("conversation, second half, 1x", conversation, part=(0.5, 1.0)),
    Scenario("conversation, second half, 4x", conversation, part=(0.5, 1.0), speed=4.0),
    Scenario("conversation, second half, closed loop of 128", conversation, part=(0.5, 1.0), clients=128),
    *(Scenario(f"shared-prefix, load {share}", prefixes, share=share) for share in SHARES),
    *(Scenario(f"agentic, load {share}", agents, share=share) for share in SHARES),
    *(Scenario(f"zero-reuse, load {share}", strangers, share=share) for share in SHARES),
    Scenario("conversation, 32 replicas, load 0.8", conversation, Pool(32), share=0.8),
    Scenario("conversation, 128 replicas, load 0.8", conversation, Pool(128), share=0.8),
    Scenario("conversation, 9 mixed GPUs, load 0.8", conversation, MIXED, share=0.8),
    Scenario("shared-prefix, 9 mixed GPUs, load 0.8", prefixes, MIXED, share=0.8),
    Scenario("zero-reuse, 9 mixed GPUs, load 0.8", strangers, MIXED, share=0.8),
]
BASELINES = [name for name in POLICIES if name != show.ORACLE]
PICTURED = "conversation, 1x"
PICTURED_POLICIES = (
    PICKER,
    "round-robin",
    "least-request",
    "sglang-cache-aware",
    "llm-d-sticky",
    "dynamo-tuned",
    "oracle",
)


@lru_cache(1)
def made(place: int) -> Lab:
    return SCENARIOS[place].lab()


def play(task: tuple[int, str]) -> tuple[Figures, plot.Drawn | None]:
    """One policy in one scenario, in a process of its own."""
    place, policy = task
    figures, outcome = made(place).run(policy)
    return figures, plot.Drawn.of(figures, outcome) if is_pictured(place, policy) else None


def is_pictured(place: int, policy: str) -> bool:
    return SCENARIOS[place].name == PICTURED and policy in PICTURED_POLICIES


def title(name: str, found: Sequence[Figures]) -> str:
    return f"{name}: {found[0].requests} requests, hit ceiling {found[0].hit_ceiling:.3f}"


# --- what came of it ---


@dataclass(frozen=True)
class Measure:
    """A figure that picker is held to, and whether more of it is better."""

    name: str
    unit: str
    of: Callable[[Figures], float]
    more: bool = False
    most: float = math.inf  # as good as any, up to this

    def best(self, found: Sequence[Figures]) -> Figures:
        return (max if self.more else min)(found, key=self.of)

    def is_met(self, mine: Figures, other: Figures) -> bool:
        """As good as the other: within 0.5 %, or 0.0005 of a hit rate."""
        ahead = self.of(mine) - self.of(other)
        if self.of(mine) <= self.most < math.inf:
            return True
        return ahead >= -0.0005 if self.more else ahead <= 0.005 * abs(self.of(other))


MEASURES = (
    Measure("hit rate", "", lambda one: one.hit_rate, more=True),
    Measure("TTFT mean", "ms", lambda one: one.ttft_ms.mean),
    Measure("TTFT p90", "ms", lambda one: one.ttft_ms.p90),
    Measure("TTFT p99", "ms", lambda one: one.ttft_ms.p99),
    Measure("balance", "", lambda one: one.balance, most=1.15),
)


def value(measure: Measure, figures: Figures) -> str:
    return show.milliseconds(measure.of(figures)) if measure.unit else f"{measure.of(figures):.3f}"


def verdicts(groups: Sequence[tuple[str, Sequence[Figures]]]) -> str:
    """Of each scenario: picker, and the best of the baselines in each measure."""
    lines = ["| load | " + " | ".join(one.name for one in MEASURES) + " |", "| --- |" + " --- |" * len(MEASURES)]
    for name, found in groups:
        mine = next(one for one in found if one.policy == PICKER)
        others = [one for one in found if one.policy in BASELINES]
        cells = [_verdict(measure, mine, measure.best(others)) for measure in MEASURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(measure: Measure, mine: Figures, best: Figures) -> str:
    own = value(measure, mine)
    text = f"**{own}**" if measure.is_met(mine, best) else own
    return f"{text} ({value(measure, best)}, {best.policy})"


def markdown(name: str, found: Sequence[Figures]) -> str:
    heads = show.HEADS[:-1]  # without wall time, so that the page is the same every time
    lines = [f"### {title(name, found)}", "", "| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += ["| " + " | ".join(cells[:-1]) + " |" for cells in show.rows(found)]
    return "\n".join(lines)


PUBLISHED = (PICKER, "round-robin", "dynamo-tuned", show.ORACLE)


def result_rows(groups: Sequence[tuple[str, Sequence[Figures]]]) -> Iterator[results.Row]:
    """What is published: picker with the targets, and who stands beside it, the best of each measure too."""
    for name, found in groups:
        others = [one for one in found if one.policy in BASELINES]
        for measure in MEASURES:
            best = measure.best(others).policy if others else ""
            for figures in found:
                if figures.policy in (*PUBLISHED, best):
                    target = _target(name, measure, others) if figures.policy == PICKER else ""
                    shown = round(measure.of(figures), 4)
                    yield results.Row(name, measure.name, figures.policy, shown, measure.unit, COMMAND, target=target)
        mine = next(one for one in found if one.policy == PICKER)
        yield results.Row(name, "rejected", PICKER, mine.rejected, "requests", COMMAND)
        yield results.Row(name, "hit ceiling", "", round(mine.hit_ceiling, 4), "", COMMAND)


def _target(name: str, measure: Measure, others: Sequence[Figures]) -> str:
    if measure.name == "hit rate":
        return ">= 0.35" if name.startswith("conversation, 1x") else ""
    if measure.name == "balance":
        return "<= 1.15"
    return f"<= {measure.of(measure.best(others)):.4f}" if others else ""


def write(groups: Sequence[tuple[str, Sequence[Figures]]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    told = [{"load": name, **one.told()} for name, found in groups for one in found]
    (out / "sim.json").write_text(json.dumps(told, indent=1))


def write_docs(groups: Sequence[tuple[str, Sequence[Figures]]]) -> None:
    page = placed(DOCS.read_text(), "verdict", verdicts(groups))
    DOCS.write_text(placed(page, "tables", "\n\n".join(markdown(name, found) for name, found in groups)))
    results.write("sim", result_rows(groups))


def kept(path: Path) -> dict[tuple[str, str], Figures]:
    """What an earlier `write` left, by load and policy."""
    rows = json.loads(path.read_text())
    return {(row["load"], row["policy"]): Figures.of_told(row) for row in rows}


def played(
    places: Sequence[int], policies: Sequence[str], known: Mapping[tuple[str, str], Figures], jobs: int
) -> Iterator[tuple[str, list[Figures], list[plot.Drawn]]]:
    """A load after the other, as they are done. What is known is not run again, unless a picture wants it."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        tasks = {
            (place, policy): pool.submit(play, (place, policy))
            for place in places
            for policy in policies
            if (SCENARIOS[place].name, policy) not in known or is_pictured(place, policy)
        }
        for place in places:
            name = SCENARIOS[place].name
            runs = [tasks[place, policy].result() for policy in policies if (place, policy) in tasks]
            fresh = {figures.policy: figures for figures, _ in runs}
            found = [fresh.get(policy) or known[name, policy] for policy in policies]
            yield name, found, [drawn for _, drawn in runs if drawn is not None]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="loads whose name holds this")
    parser.add_argument("--policies", type=lambda words: words.split(","), default=[PICKER, *POLICIES])
    parser.add_argument("--kept", type=Path, help="sim.json of an earlier run: of its policies only --fresh runs again")
    parser.add_argument("--fresh", type=lambda words: words.split(","), default=[PICKER])
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--out", type=Path, default=Path("build/sim"))
    parser.add_argument("--docs", action="store_true", help="write docs/routing-quality.md and what the README shows")
    return parser.parse_args()


def main() -> None:
    results.commit()  # asked once, before anything is written
    args = options()
    places = [place for place, one in enumerate(SCENARIOS) if args.only in one.name]
    if not places:
        raise SystemExit(f"no load is called {args.only!r}: {'; '.join(one.name for one in SCENARIOS)}")
    writes_docs = args.docs and len(places) == len(SCENARIOS) and {PICKER, *POLICIES} <= set(args.policies)
    known = {key: one for key, one in kept(args.kept).items() if key[1] not in args.fresh} if args.kept else {}
    groups: list[tuple[str, list[Figures]]] = []
    pictured: list[plot.Drawn] = []
    for name, found, drawn in played(places, args.policies, known, args.jobs):
        groups.append((name, found))
        pictured += drawn
        Console(width=190).print(show.table(found, title(name, found)))
        write(groups, args.out)  # each time, for it may take long
    if pictured:
        plot.draw(pictured, f"{PICTURED}: 8 replicas", PICTURES if writes_docs else args.out)
    if PICKER in args.policies and set(args.policies) & set(BASELINES):
        print(verdicts(groups))
    if writes_docs:
        write_docs(groups)
    elif args.docs:
        print("The docs stay as they are: they show all loads and all policies")


if __name__ == "__main__":
    main()
