"""Panels of the figures of what leaks: which runs stand in each, their axes and their legend."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd
from leaks import SETTING
from marks import Entry, legend
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from settings import the_attack

from fl.experiment import figures, summary
from fl.experiment.names import display_name

# In the name of every figure.
TASK = ("dataset", "model", "attack")
# Whose messages a panel is about.
WHOSE = ["clients", "batch_size"]
# Of chance, and of where no leak is claimed.
GREY, PALE = "0.5", "0.88"
MOST_COLUMNS = 3

Panel = tuple[dict, pd.DataFrame]


def named_panels(
    prefix: str, found: pd.DataFrame, by: Sequence[str], differing: Sequence[str]
) -> Iterator[tuple[str, dict, list[Panel]]]:
    """Yield name, setting and panels of figures.

    Args:
        prefix: of the names.
        found: from `leaks.leaks`.
        by: columns whose values have a panel each; with none there is a single panel.
        differing: columns that the runs of a panel differ in, or there is no such panel. Those that
            differ in others get figures of their own.
    """
    by, shared = list(by), [name for name in SETTING if name not in (*by, *differing)]
    kept = []
    for setting, view in summary.groups(found, shared):
        panels = summary.groups(view.sort_values(by), by) if by else [({}, view)]
        panels = [each for each in panels if len(each[1][list(differing)].drop_duplicates()) > 1]
        if panels:
            kept.append((setting, panels))
    return figures.named(prefix, kept, TASK)


def blank_panels(
    number: int, width: float = figures.COLUMN_WIDTH, legend_rows: int = 4, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many panels.

    Args:
        number: at least 1.
        width: inches, of one panel; several take a page's.
        legend_rows: lines of the legend, its title among them.
        sharey: whether their vertical axes are the same.
    """
    columns = min(number, MOST_COLUMNS)
    rows = math.ceil(number / columns)
    width = width if number == 1 else figures.PAGE_WIDTH
    figure = figures.blank(width, 0.4 + 0.15 * legend_rows + 1.9 * rows, gap=0.03)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for unused in axes[number:]:
        unused.remove()
    return figure, list(axes[:number])


def finish(figure: Figure, setting: dict, x: str, y: str, *columns: Sequence[Entry]) -> None:
    """Name the axes, and draw the legend under the name of what all panels are about."""
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    names = [display_name(setting[name]) for name in ("dataset", "model", "algorithm")]
    legend(figure, *columns, title=", ".join([*names, the_attack(setting)]))
