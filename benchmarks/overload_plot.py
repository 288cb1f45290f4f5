"""The picture of an overload experiment: who waited how long, what came of it, and how it went over time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overload_report import Outcome, Run, quantile

COLOURS = ("#0b7285", "#9aa5b1", "#e67700", "#862e9c")
SHADES = (1.0, 0.65, 0.35)  # of the bands, the highest first
INK, FAINT = "#212529", "#dee2e6"
TICKS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def draw(runs: Sequence[Run], outcomes: Mapping[str, Sequence[Outcome]], subtitle: str, path: Path) -> None:
    """Writes a PNG. `outcomes`: of each run by its name. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 0.9, 1.3))
    _waits(left, runs)
    _work(middle, runs)
    _over_time(right, runs, outcomes)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_color(INK)
    figure.suptitle("The same overload under each policy", x=0.012, ha="left", fontsize=14, weight="bold")
    figure.text(0.012, 0.893, subtitle, ha="left", fontsize=9.5, color="#495057")
    figure.tight_layout(rect=(0, 0, 1, 0.93), w_pad=3)
    figure.savefig(path, format="png")


def _waits(axes: Any, runs: Sequence[Run]) -> None:
    """A bar from the median to the 99th percentile for each band of each run."""
    ticks: dict[float, str] = {}
    for place, run in enumerate(runs):
        for order, band in enumerate(run.bands):
            at = order * (len(runs) + 1) + place
            colour = COLOURS[place % len(COLOURS)]
            axes.plot([at, at], [band.ttft_p50_s, band.ttft_p99_s], color=colour, linewidth=5, solid_capstyle="butt")
            axes.plot([at], [band.ttft_p50_s], "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)
            ticks[order * (len(runs) + 1) + (len(runs) - 1) / 2] = f"band {band.priority}"
        axes.plot([], [], color=COLOURS[place % len(COLOURS)], linewidth=5, label=run.name)
    _seconds(axes)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_title("Time to first token, p50 (dot) to p99", loc="left", fontsize=10.5)
    axes.legend(loc="upper left", framealpha=1, edgecolor="none", fontsize=9)


def _seconds(axes: Any) -> None:
    axes.set_yscale("log")
    axes.minorticks_off()
    low_s, high_s = axes.get_ylim()
    axes.set_ylim(low_s, high_s * (high_s / low_s) ** 0.25)  # room for the legend
    shown = [tick for tick in TICKS_S if low_s <= tick <= high_s * 1.5]
    axes.set_yticks(shown, [f"{tick * 1e3:.0f} ms" if tick < 1 else f"{tick:g} s" for tick in shown])


def _work(axes: Any, runs: Sequence[Run]) -> None:
    """Goodput by band, stacked, against what the servers can do."""
    for place, run in enumerate(runs):
        foot = 0.0
        for order, band in enumerate(run.bands):
            label = f"band {band.priority}" if place == 0 else None
            shade = SHADES[min(order, len(SHADES) - 1)]
            colour = COLOURS[place % len(COLOURS)]
            axes.bar([place], [band.goodput], 0.6, bottom=foot, color=colour, alpha=shade, label=label)
            foot += band.goodput
        axes.text(place, foot, f"{run.share:.0%}", ha="center", va="bottom", fontsize=9)
    if runs:
        axes.axhline(runs[0].capacity, color=INK, linewidth=1, linestyle="--", label="capacity")
        axes.set_ylim(0, runs[0].capacity * 1.45)
    axes.set_xticks(range(len(runs)), [run.name for run in runs])
    axes.set_title("Tokens per second of requests answered whole", loc="left", fontsize=10.5)
    axes.legend(loc="upper left", ncols=2, framealpha=1, edgecolor="none", fontsize=9)


def _over_time(axes: Any, runs: Sequence[Run], outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """The worst of each second in the highest band."""
    for place, run in enumerate(runs):
        by_second: dict[int, list[float]] = defaultdict(list)
        highest = run.bands[0].priority if run.bands else 0
        for outcome in outcomes.get(run.name, ()):
            if outcome.priority == highest and (wait := outcome.waited_s) is not None:
                by_second[int(outcome.at_s)].append(wait)
        seconds = sorted(by_second)
        worst = [quantile(by_second[second], 1.0) for second in seconds]
        axes.plot(seconds, worst, color=COLOURS[place % len(COLOURS)], linewidth=1.8, label=run.name)
    _seconds(axes)
    axes.set_xlabel("seconds", fontsize=9)
    axes.set_title("Highest band: longest time to first token, by second", loc="left", fontsize=10.5)
