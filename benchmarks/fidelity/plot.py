"""The picture: of each policy the distribution of TTFT, live and in virtual time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Of each policy TTFT in seconds, live and in virtual time."""
LIVE, LAB, INK, FAINT = "#0b7285", "#e67700", "#212529", "#dee2e6"
COLUMNS = 3
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5)


def draw(curves: Curves, path: Path) -> None:
    """Writes a PNG. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(12, 3.1 * lines + 0.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    places = figure.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for axes, (name, both) in zip(places, curves.items(), strict=False):
        for values, colour, said in zip(both, (LIVE, LAB), ("live, real Envoy", "virtual time"), strict=True):
            ordered = sorted(values)
            shares = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
            axes.plot(ordered, shares, color=colour, linewidth=1.8, label=said)
        axes.set_title(name, loc="left", fontsize=10.5, color=INK)
        axes.set_xscale("log")
        axes.set_xticks(TICKS_S, [f"{tick:g} s" for tick in TICKS_S])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        axes.grid(color=FAINT, linewidth=0.8)
    figure.axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.suptitle("Share of requests by time to first token", x=0.012, ha="left", fontsize=13, weight="bold")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, format="png")
