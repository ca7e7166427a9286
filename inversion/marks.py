"""Marks with error bars, and the legends that explain them."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ERRORS = {"elinewidth": 0.8, "capsize": 1.6, "capthick": 0.8, "linestyle": ""}

Entry = tuple[str, Any]


def mark(marker: str, color: str, face: str) -> Line2D:
    """Make a handle for a legend."""
    return Line2D(
        [], [], color=color, marker=marker, markersize=4, markerfacecolor=face, linestyle=""
    )


def heading(text: str) -> Entry:
    """Make an entry of a legend that heads those below it."""
    return text, mark("", "none", "none")


def shades(count: int) -> list[str]:
    """Colours from pale to dark, without the palest end, which is lost on white."""
    scale = mpl.colormaps["viridis_r"]
    return [
        mpl.colors.to_hex(scale(0.12 + 0.88 * number / max(count - 1, 1)))
        for number in range(count)
    ]


def draw_point(
    axis: Axes,
    x: tuple[float, float],
    accuracy: tuple[float, float],
    marker: str,
    color: str,
    face: str,
    label: str | None = None,
) -> None:
    """Draw an accuracy against something else, with a bar for the deviation of each.

    Args:
        axis: to draw on.
        x: mean and standard deviation.
        accuracy: likewise, in [0, 1]; drawn in percent.
        marker: its shape.
        color: of its edge and of the bars.
        face: its colour.
        label: in the legend; a mark with one is larger.
    """
    # One run has no deviation.
    errors = [0 if pd.isna(std) else std for _, std in (x, accuracy)]
    axis.errorbar(
        x[0],
        100 * accuracy[0],
        xerr=errors[0],
        yerr=100 * errors[1],
        color=color,
        marker=marker,
        markersize=5 if label else 4,
        markerfacecolor=face,
        label=label,
        **ERRORS,
    )


def legend(figure: Figure, *columns: Sequence[Entry], title: str | None = None) -> None:
    """Draw a legend above the axes.

    Args:
        figure: to draw on.
        *columns: lists of (label, handle); empty ones are left out.
        title: above them.
    """
    columns = [column for column in columns if column]
    # Matplotlib fills columns evenly: shorter ones end in blanks.
    rows = max(map(len, columns))
    entries = [
        entry for column in columns for entry in [*column, *[heading("")] * (rows - len(column))]
    ]
    figure.legend(
        [handle for _, handle in entries],
        [label for label, _ in entries],
        loc="outside upper center",
        ncols=len(columns),
        columnspacing=1.1,
        handletextpad=0.4,
        title=title,
        title_fontsize=8,
    )
