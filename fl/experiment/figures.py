"""What the figures of several experiments share: style, looks of algorithms, names, saving.

Needs Matplotlib, which the experiments' requirements install; nothing else in the package does.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from fl.experiment import tables

COLUMN_WIDTH = 3.45  # inches: a column of a two-column paper
PAGE_WIDTH = 7.1  # inches: both columns
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
    "secadam_perturbed": Look("#CC79A7", (0, (1, 1)), "D", 1.5),
}
OTHER = Look("0.5", "-", ".", 1.0)


def look(algorithm: str) -> Look:
    """How to draw an algorithm, also one that has no look of its own."""
    return LOOKS.get(algorithm, OTHER)


def legend_entries(figure: Figure) -> dict[str, object]:
    """Labels of all axes of a figure with one handle each, algorithms in the order of display."""
    found = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    order = {name: number for number, name in enumerate(tables.DISPLAY_NAMES.values())}
    return {label: found[label] for label in sorted(found, key=lambda key: order.get(key, 99))}


def names(prefix: str, settings: Sequence[Mapping], task: Sequence[str]) -> Iterator[str]:
    """Name figures after their tasks, and after whatever else tells them from others of the task.

    Args:
        prefix: of every name.
        settings: for each figure, column to value; all have the same keys.
        task: the columns that are in every name.
    """
    for setting in settings:
        others = [other for other in settings if all(other[key] == setting[key] for key in task)]
        varying = [
            key
            for key in setting
            if key not in task and len({str(other[key]) for other in others}) > 1
        ]
        parts = [_name_part(key, setting[key]) for key in varying]
        yield "_".join([prefix, *(setting[key] for key in task), *filter(None, parts)])


def _name_part(name, value):
    if isinstance(value, str):
        return value.replace("=", "").replace(" ", "-").replace(".", "-")
    # LaTeX takes what follows the first point for the file type.
    return "" if pd.isna(value) else f"{name.replace('_', '-')}{value:g}".replace(".", "-")


def save(figure: Figure, stem: Path, kinds: Iterable[str] = ("pdf", "png")) -> list[Path]:
    """Write a figure into files, the same bytes each time; folders are made where missing.

    Args:
        figure: to write.
        stem: path without the file type.
        kinds: file types.

    Returns:
        The paths, in the order of `kinds`.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for target in paths:
        # Without a date, the same results give the same file.
        dated = {"CreationDate": None} if target.suffix == ".pdf" else None
        figure.savefig(target, metadata=dated)
    return paths
