"""A rollout on a terminal, or as JSON for programs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from picker.config.units import format_duration
from picker.errors import printable
from picker.rollout.checks import Check
from picker.rollout.figures import Figures
from picker.rollout.machine import Phase, Plan, compared
from picker.rollout.record import Record
from picker.rollout.weights import Weights, in_words

__all__ = ["as_json", "one_line", "show_checks", "show_plan", "show_status"]

_MARKS = {True: "[green]yes[/]", False: "[red]NO[/]", None: "[yellow]mind[/]"}
_COLORS = {
    Phase.PROGRESSING: "cyan",
    Phase.HELD: "yellow",
    Phase.COMPLETED: "green",
    Phase.ROLLED_BACK: "red",
}


def show_plan(console: Console, where: str, plan: Plan, steps: Sequence[Mapping[int, Weights]]) -> None:
    """What would happen. `steps`: the weights in each."""
    console.print(
        f"{where}: {plan.old} -> {plan.new}" + (f", for model {plan.model}" if plan.model else ""), markup=False
    )
    table = Table("step", "new", "weights", "watched for at least", box=None)
    for number, (share, weights) in enumerate(zip(plan.steps, steps, strict=True), 1):
        table.add_row(str(number), f"{share} %", printable(in_words(weights)), format_duration(plan.every_s))
    console.print(table)
    for line in _limits(plan):
        console.print(line, markup=False)


def _limits(plan: Plan) -> list[str]:
    limits = plan.thresholds
    points = [
        f"{name} by more than {100 * rate:g} percentage points"
        for name, rate in (
            ("the error rate grows", limits.max_error_rate_increase),
            ("the shed rate grows", limits.max_shed_rate_increase),
            ("the rate of cancellations grows", limits.max_cancel_rate_increase),
        )
    ]
    times = f"p{100 * limits.ttft_quantile:g} of the time to first token is more than {limits.max_ttft_ratio:g} times"
    return [
        "rolled back when, from old to new,",
        *(f"  {point}, or" for point in points),
        f"  {times} as long, and by more than {format_duration(limits.ttft_slack_s)}",
        f"a step ends after {format_duration(plan.every_s)} and {limits.min_requests} requests of the new side;",
        f"  it waits for them for {format_duration(plan.hold_limit_s)}, then it is held",
        f"held when metrics cannot be read for {format_duration(plan.blind_limit_s)}; rolled back when only the new",
        "  side's cannot",
    ]


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """What was found."""
    table = Table("as it must be", "", "found", box=None)
    for check in checks:
        table.add_row(_MARKS[check.is_good], check.what, printable(check.found))
    console.print(table)


def show_status(console: Console, where: str, record: Record, now: Mapping[int, Weights]) -> None:
    """Where it is, why, and the figures of both sides. `now`: the weights in the object."""
    plan, state = record.plan, record.state
    console.print(
        f"{where}: {plan.old} -> {plan.new}" + (f", for model {plan.model}" if plan.model else ""), markup=False
    )
    step = f"step {state.step + 1} of {len(plan.steps)}, {state.share} %"
    console.print(
        f"[{_COLORS[state.phase]}]{state.phase.value}[/], {step}, since {record.since} (begun {record.started})"
    )
    for name, text in (
        ("reason", state.reason),
        ("now", state.note),
        ("weights", in_words(now)),
        ("run by", _holder(record)),
    ):
        if text:
            console.print(f"{name}: {printable(text)}", markup=False)
    table = Table("since the step began", "old", "new", box=None)
    old, new = figures(record, state.old), figures(record, state.new)
    for name in old:
        table.add_row(name.replace("_", " "), _shown(old[name]), _shown(new[name]))
    console.print(table)
    if compared(plan, state) is not state.old:
        before = ", ".join(
            f"{name.replace('_', ' ')} {_shown(value)}" for name, value in figures(record, state.baseline).items()
        )
        console.print(f"compared with the old side before: {before}", markup=False)


def _holder(record: Record) -> str:
    holder = record.holder
    return f"{holder.name}, last sign of life {holder.at}" if holder is not None else ""


def figures(record: Record, side: Figures) -> dict[str, float | None]:
    """What is judged, by name; None without requests."""
    ttft = side.ttft_quantile_s(record.plan.thresholds.ttft_quantile)
    rates = {"error_rate": side.errors, "shed_rate": side.shed, "cancel_rate": side.canceled}
    return {
        "requests": side.requests,
        **{name: count / side.requests if side.requests else None for name, count in rates.items()},
        f"ttft_p{100 * record.plan.thresholds.ttft_quantile:g}_s": None if math.isnan(ttft) else ttft,
    }


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def as_json(record: Record, now: Mapping[int, Weights]) -> dict[str, Any]:
    """What `show_status` shows, for programs."""
    state = record.state
    return {
        "phase": state.phase.value,
        "step": state.step + 1,
        "steps": len(record.plan.steps),
        "share_percent": state.share,
        "started": record.started,
        "since": record.since,
        "watched_s": round(state.watched_s, 3),
        "reason": state.reason,
        "note": state.note,
        "weights": {str(rule): dict(weights) for rule, weights in now.items()},
        "old": figures(record, state.old),
        "new": figures(record, state.new),
        "compared_with": figures(record, compared(record.plan, state)),
        "holder": msgspec.to_builtins(record.holder),
        "plan": msgspec.to_builtins(record.plan),
    }


def one_line(record: Record) -> str:
    """The same for a log."""
    state = record.state
    old, new = figures(record, state.old), figures(record, state.new)
    sides = ", ".join(f"{name} {_shown(old[name])}/{_shown(new[name])}" for name in old)
    return printable(f"{state.phase.value} at {state.share} %: {state.reason or state.note} (old/new: {sides})")
