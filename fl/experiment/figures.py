"""What the figures of several experiments share: options, style, looks of algorithms, saving.

Needs Matplotlib, which the experiments' requirements install; nothing else in the package does.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from fl.experiment import reports
from fl.experiment.departures import PARTIAL
from fl.experiment.names import DISPLAY_NAMES

COLUMN_WIDTH = 3.45  # inches: a column of a two-column paper
PAGE_WIDTH = 7.1  # inches: both columns
MOST_NUMBERS = 14  # that have room beside one another at a logarithmic axis of a column
STYLE = {
    "font.family": "STIXGeneral",  # close to Times, and comes with Matplotlib
    "font.size": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,  # TrueType: publishers reject the default, Type 3
    "savefig.dpi": 300,
}


class Look(NamedTuple):
    """How an algorithm is drawn."""

    color: str
    dashes: str | tuple
    marker: str
    width: float  # points


# Colours that the colour-blind can tell apart (Okabe and Ito). Lines that may coincide, as SecAgg
# computes what FedAvg does, are a thin broken one over a broad one, so that both are seen.
LOOKS = {
    "fedavg": Look("#0072B2", "-", "o", 2.2),
    "secagg": Look("#000000", (0, (2, 2)), "x", 0.9),
    "adam": Look("#009E73", (0, (6, 2)), "^", 1.2),
    "fedadam": Look("#E69F00", (0, (5, 1.5, 1, 1.5)), "v", 1.2),
    "secadam": Look("#D55E00", "-", "s", 1.5),
    "secadam_fedadam": Look("#CC79A7", (0, (1, 1)), "D", 1.5),
    "fedprox": Look("#56B4E9", (0, (4, 1)), "P", 1.2),
    "scaffold": Look("#8C564B", (0, (3, 1, 1, 1, 1, 1)), "<", 1.2),
    "secadam_perturbed": Look("#CC79A7", (0, (1, 1)), "D", 1.5),
}
OTHER = Look("0.5", "-", ".", 1.0)


def look(algorithm: str) -> Look:
    """How to draw an algorithm, also one that has no look of its own."""
    return LOOKS.get(algorithm, OTHER)


def command_line(description: str, folder: Path, example: str) -> argparse.ArgumentParser:
    """Options that all plots share; arguments as for `reports.command_line`."""
    parser = reports.command_line(description, folder, example)
    parser.add_argument(
        "--output", type=Path, help="folder (default: figures, beside the results file)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="instead, our figures against the paper's"
    )
    return parser


def save_all(
    found: Iterable[tuple[str, Figure]], options: argparse.Namespace, otherwise: str
) -> None:
    """Write figures into files and print their paths; exit if there are none.

    Args:
        found: names and figures, drawn as they are asked for.
        options: from `command_line`.
        otherwise: why there may be nothing to draw.
    """
    folder = options.output or options.results.parent / "figures"
    with mpl.rc_context(STYLE):
        paths = [path for name, figure in found for path in save(figure, folder / name)]
    if not paths:
        sys.exit(f"nothing to draw: {otherwise}")
    print(*paths, sep="\n")


def blank(width: float, height: float, gap: float = 0.02) -> Figure:
    """An empty figure.

    Args:
        width: inches.
        height: inches.
        gap: inches above and below axes.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=gap)
    return figure


def draw_shares(axis: Axes, x: pd.Series, stats: pd.DataFrame, color: str, **line: object) -> None:
    """Draw means of shares in percent as a line, and a band of one standard deviation.

    Args:
        axis: to draw on.
        x: positions of the points.
        stats: from `summary.mean_and_std`, of values in [0, 1], a row for each point.
        color: of line and band.
        line: further settings of the line.
    """
    mean, std = 100 * stats["mean"], 100 * stats["std"].fillna(0)
    low, high = (mean - std).clip(0, 100), (mean + std).clip(0, 100)
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(x, mean, color=color, **line)


def log_ticks(axis: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic, with a tick for each value, and numbers where they have room.

    Args:
        axis: whose ticks are set.
        values: above 0, ascending.
    """
    shown = []
    apart = max(1.5, (values[-1] / values[0]) ** (1 / MOST_NUMBERS))
    for value in reversed(values):
        if not shown or shown[-1] / value >= apart:
            shown.append(value)
    axis.set_xscale("log")
    axis.set_xticks(shown, [str(value) for value in shown])
    axis.xaxis.set_minor_locator(FixedLocator(values))
    axis.xaxis.set_minor_formatter(NullFormatter())


def legend_entries(figure: Figure) -> dict[str, object]:
    """Labels of all axes of a figure with one handle each, algorithms in the order of display."""
    found = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    order = {name: number for number, name in enumerate(DISPLAY_NAMES.values())}
    return {label: found[label] for label in sorted(found, key=lambda key: order.get(key, 99))}


def named(prefix: str, found: Sequence[tuple], task: Sequence[str]) -> Iterator[tuple]:
    """Name figures after their tasks, and after whatever else tells them from others of the task.

    Args:
        prefix: of every name.
        found: a tuple for each figure, which begins with its setting: column to value; all have the
            same keys.
        task: the columns that are in every name.

    Yields:
        The tuples with the name put before.
    """
    settings = [setting for setting, *_ in found]
    for setting, *rest in found:
        others = [other for other in settings if all(other[key] == setting[key] for key in task)]
        varying = [
            key
            for key in setting
            if key not in task
            and len({str(other[key]) for other in others}) > 1
            # Of all departures, the variant says so.
            and (key != "departures" or setting["variant"] == PARTIAL)
        ]
        parts = [_name_part(key, setting[key]) for key in varying]
        name = "_".join([prefix, *(setting[key] for key in task), *filter(None, parts)])
        yield name, setting, *rest


def _name_part(name, value):
    if isinstance(value, str):
        return value.replace("=", "").replace(" ", "-").replace(".", "-")
    # LaTeX takes what follows the first point for the file type.
    return "" if pd.isna(value) else f"{name.replace('_', '-')}{value:g}".replace(".", "-")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG, the same bytes each time; folders are made where missing.

    Args:
        figure: to write.
        stem: path without the file type.

    Returns:
        The two paths.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png")]
    for target in paths:
        # Without a date, the same results give the same file.
        dated = {"CreationDate": None} if target.suffix == ".pdf" else None
        figure.savefig(target, metadata=dated)
    return paths
