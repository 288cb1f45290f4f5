"""Pictures of runs of the lab: how latency is distributed, what replicas held over time, what became of reuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picker.sim.figures import Figures
from picker.sim.gateway import SERVED
from picker.sim.world import Outcome, Sample

COLOURS = (
    "#0b7285", "#9aa5b1", "#e67700", "#862e9c", "#2b8a3e", "#c92a2a", "#1864ab", "#5f3dc4", "#a61e4d", "#495057",
    "#f08c00", "#099268",
)  # fmt: skip
INK, FAINT = "#212529", "#dee2e6"
TICKS_MS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000)


@dataclass(frozen=True)
class Drawn:
    """What the pictures need of one run."""

    figures: Figures
    ttft_ms: tuple[float, ...]  # ascending
    e2e_ms: tuple[float, ...]
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, figures: Figures, outcome: Outcome) -> "Drawn":
        served = [story for story in outcome.stories if story.outcome == SERVED]
        return cls(
            figures,
            tuple(sorted(story.ttft_s * 1e3 for story in served)),
            tuple(sorted((story.end_s - story.at_s) * 1e3 for story in served)),
            tuple(outcome.samples),
        )


def draw(runs: Sequence[Drawn], title: str, folder: Path) -> list[Path]:
    """Writes latency.png, load.png and hits.png. Raises OSError, and ImportError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_latency(runs, title, folder), _load(runs, title, folder), _hits(runs, title, folder)]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _saved(figure: Any, title: str, path: Path) -> Path:
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, weight="bold", color=INK)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, format="png")
    return path


def _latency(runs: Sequence[Drawn], title: str, folder: Path) -> Path:
    figure = _figure(12, 5)
    for axes, what in zip(figure.subplots(1, 2), ("time to first token", "time to last token"), strict=True):
        for run, colour in zip(runs, _colours(runs), strict=True):
            times = run.ttft_ms if what == "time to first token" else run.e2e_ms
            shares = [(place + 1) / len(times) for place in range(len(times))]
            axes.plot(times, shares, color=colour, linewidth=1.8, label=run.figures.policy)
        axes.set_xscale("log")
        axes.minorticks_off()
        low, high = axes.get_xlim()
        ticks = [tick for tick in TICKS_MS if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick} ms" if tick < 1000 else f"{tick // 1000} s" for tick in ticks])
        axes.set_yticks([0, 0.5, 0.9, 0.99], ["0", "50 %", "90 %", "99 %"])
        axes.set_title(f"share of requests by {what}", loc="left", fontsize=10)
        _plain(axes)
        axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    return _saved(figure, title, folder / "latency.png")


def _load(runs: Sequence[Drawn], title: str, folder: Path) -> Path:
    """Requests in each replica over time, a strip for each policy, all on one scale."""
    figure = _figure(12, 1.2 + 1.1 * len(runs))
    most = max((max(_held(sample), default=0) for run in runs for sample in run.samples), default=1)
    for axes, run in zip(figure.subplots(len(runs), 1, squeeze=False, sharex=True)[:, 0], runs, strict=True):
        columns = [_held(sample) for sample in run.samples]
        end_s = run.samples[-1].at_s if run.samples else 1.0
        grid = list(zip(*columns, strict=True))
        extent = (0, max(end_s, 1e-9) / 60, len(grid) - 0.5, -0.5)
        shown = axes.imshow(
            grid, aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0, vmax=max(most, 1), extent=extent
        )
        axes.set_ylabel(run.figures.policy, rotation=0, ha="right", va="center", fontsize=9, color=INK)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        figure.colorbar(shown, ax=axes, pad=0.01)
    axes.set_xlabel("minutes", fontsize=9)
    return _saved(figure, f"{title}\nrequests in each replica, running and waiting", folder / "load.png")


def _held(sample: Sample) -> list[int]:
    return [sum(pair) for pair in zip(sample.running, sample.waiting, strict=True)]


def _hits(runs: Sequence[Drawn], title: str, folder: Path) -> Path:
    """Of all prompt tokens: what could be reused, what was within reach, what was chosen, what was had."""
    figure = _figure(12, 4.6)
    axes = figure.subplots()
    kinds = (
        ("ceiling (one cache without end)", "#ced4da", [run.figures.hit_ceiling for run in runs]),
        ("available (in some replica's cache)", "#99e9f2", [run.figures.hit_available for run in runs]),
        ("captured (in the chosen one's)", "#22b8cf", [run.figures.hit_captured for run in runs]),
        ("delivered (when its turn came)", "#0b7285", [run.figures.hit_rate for run in runs]),
    )
    for place, (label, colour, shares) in enumerate(kinds):
        axes.bar([at + 0.2 * place for at in range(len(runs))], shares, 0.19, color=colour, label=label)
    axes.set_xticks(
        [at + 0.3 for at in range(len(runs))], [run.figures.policy for run in runs], rotation=20, ha="right"
    )
    axes.set_ylabel("share of prompt tokens", fontsize=9, color=INK)
    _plain(axes)
    axes.legend(frameon=False, fontsize=8.5, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return _saved(figure, title, folder / "hits.png")


def _colours(runs: Sequence[Drawn]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(runs))]
