"""Our figures against the paper's: a point each, the diagonal, and bars of two deviations."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl.experiment import figures, summary
from fl.experiment.comparison import KINDS, MOST_APART, TASK, TITLES, Paper, compare

# Colours that the colour-blind can tell apart, and faces.
LOOKS = {KINDS[0]: ("#D55E00", "s", "#D55E00"), KINDS[1]: ("#0072B2", "o", "white")}
PANELS = 3  # side by side
NAMED = 8  # outliers of a panel and kind, the farthest
ROWS = 20  # of text in a panel; more than twice `NAMED`
ROOM = 0.04  # at either end of an axis, so that markers there are whole
ENDS = ((0, min), (1, max))  # of an axis, and which of two axes' counts for both


def comparison_figures(frame: pd.DataFrame, paper: Paper) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of what was run of a data set and model, a panel for each metric.

    Args:
        frame: runs.
        paper: what to compare with.
    """
    for task, every in summary.groups(compare(frame, paper), TASK):
        ran = every[every[[f"{kind}_mean" for kind in KINDS]].notna().any(axis=1)]
        panels = list(ran.groupby("metric", sort=False))
        if not panels:
            continue
        rows = -(-len(panels) // PANELS)
        figure = figures.blank(figures.PAGE_WIDTH, 0.3 + 2.3 * rows, gap=0.03)
        axes = figure.subplots(rows, PANELS, squeeze=False).flatten()
        for axis, (column, found) in zip(axes, panels, strict=False):
            metric = paper.metrics[column].metric
            axis.set_title(metric.name)
            _draw(axis, found, metric.scale)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.supxlabel("Paper", fontsize=8)
        rounds = every["stand_in"].iloc[0]
        here = "Here" if pd.isna(rounds) else f"Here, runs of {rounds:g} rounds"
        figure.supylabel(here, fontsize=8)
        entries = figures.legend_entries(figure)
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3)
        yield "_".join(["comparison", *task.values()]), figure


def _draw(axis: Axes, found: pd.DataFrame, scale: float) -> None:
    """Draw figures of one metric, and name those that are farthest apart."""
    outliers = []
    for kind, (color, marker, face) in LOOKS.items():
        ours = found[found[f"{kind}_mean"].notna()]
        bars = (MOST_APART * scale * ours[f"{name}std"].fillna(0) for name in (f"{kind}_", ""))
        x, y = scale * ours["mean"], scale * ours[f"{kind}_mean"]
        axis.errorbar(
            *(x, y, *bars),
            **{"color": color, "marker": marker, "markerfacecolor": face, "markersize": 3.2},
            **{"linestyle": "", "elinewidth": 0.6},
            label=TITLES[kind] if len(ours) else None,
        )
        apart = ours[f"{kind}_apart"].abs()
        farthest = apart[apart > MOST_APART].nlargest(NAMED).index
        outliers += [(ours["name"][at], x[at], y[at], color) for at in farthest]
    low, high = (choose(axis.get_xlim()[at], axis.get_ylim()[at]) for at, choose in ENDS)
    low, high = low - ROOM * (high - low), high + ROOM * (high - low)
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.axline((low, low), slope=1, color="0.6", linewidth=0.6, zorder=0)
    _annotate(axis, outliers, low, high)


def _annotate(axis, outliers, low, high):
    """Name outliers in a column beside them, towards the middle, each on a row of its own."""
    middle, row = (low + high) / 2, (high - low) / ROWS
    free = [low + row * number for number in range(1, ROWS)]
    for right in (False, True):
        side = [outlier for outlier in outliers if (outlier[1] > middle) == right]
        inner = (min if right else max)((x for _, x, _, _ in side), default=0)
        for name, x, y, color in sorted(side, key=lambda outlier: outlier[2]):
            beside = [place for place in free if abs(place - y) > row / 2]  # not on its own bar
            height = min(beside, key=lambda place: abs(place - y))
            free.remove(height)
            text = axis.annotate(
                name,
                (x, y),
                xytext=(inner + (-row if right else row), height),
                **{"ha": "right" if right else "left", "va": "center"},
                **{"fontsize": 4.5, "color": color},
                arrowprops={
                    **{"arrowstyle": "-", "linewidth": 0.3, "color": color},
                    **{"shrinkA": 0, "shrinkB": 0, "relpos": (float(right), 0.5)},
                },
            )
            text.set_in_layout(False)
