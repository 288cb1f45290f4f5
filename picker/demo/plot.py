"""The picture the demo leaves behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picker.demo.report import Half

COLOURS = ("#9aa5b1", "#0b7285")
TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000)
INK, FAINT = "#212529", "#dee2e6"


def draw(halves: Sequence[Half], subtitle: str, path: Path) -> None:
    """Writes a PNG: how TTFT is distributed, and what each server had to compute. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _times(left, halves)
    _work(right, halves)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        axes.title.set_color(INK)
    figure.suptitle("Round robin and picker under the same load", x=0.012, ha="left", fontsize=14, weight="bold")
    figure.text(0.012, 0.893, subtitle, ha="left", fontsize=9.5, color="#495057")
    figure.tight_layout(rect=(0, 0, 1, 0.93), w_pad=3)
    figure.savefig(path, format="png")


def _times(axes: Any, halves: Sequence[Half]) -> None:
    for half, colour in zip(halves, COLOURS, strict=False):
        times_ms = sorted(ttft_s * 1e3 for ttft_s in half.outcome.ttft_s)
        if not times_ms:
            axes.plot([], [], color=colour, linewidth=2.4, label=f"{half.title}: no answer")
            continue
        shares = [(index + 1) / len(times_ms) for index in range(len(times_ms))]
        median_ms = half.ttft_s(0.5) * 1e3
        axes.step(
            times_ms, shares, where="post", color=colour, linewidth=2.4, label=f"{half.title}: {median_ms:,.0f} ms"
        )
        axes.plot([median_ms], [0.5], "o", color=colour, markersize=7, markeredgecolor="white", zorder=3)
    axes.set_xscale("log")
    axes.minorticks_off()
    low_ms, high_ms = axes.get_xlim()
    ticks_ms = [tick for tick in TICKS_MS if low_ms <= tick <= high_ms]
    axes.set_xticks(ticks_ms, [f"{tick} ms" if tick < 1000 else f"{tick // 1000} s" for tick in ticks_ms])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.99], ["0", "25 %", "50 %", "75 %", "99 %"])
    axes.set_ylim(0, 1.02)
    axes.grid(axis="both", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("Share of requests whose first token came within ...", loc="left", fontsize=10.5)
    axes.legend(loc="lower right", frameon=False, title="median", alignment="left", fontsize=9.5)


def _work(axes: Any, halves: Sequence[Half]) -> None:
    width = 0.38
    for place, (half, colour) in enumerate(zip(halves, COLOURS, strict=False)):
        work = [counters.work / 1e3 for counters in half.work]
        positions = [index + (place - 0.5) * width for index in range(len(work))]
        label = f"{half.title}: {sum(work):,.0f}k, {half.hit_rate:.0%} of prompts from cache"
        axes.bar(positions, work, width * 0.92, color=colour, label=label)
    servers = range(len(halves[0].work))
    axes.set_xticks(servers, [f"server {index + 1}" if len(servers) <= 8 else str(index + 1) for index in servers])
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.set_title("Thousand tokens each server had to compute", loc="left", fontsize=10.5)
    axes.legend(loc="upper left", framealpha=1, edgecolor="none", fontsize=9.5)
