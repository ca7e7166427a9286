"""Figures of what leaks to attacks that watch a window, by images mixed, and over the rounds.

Marks are means over seeds, bars one sample standard deviation. Dotted lines: what the attack would
make of the true gradient. Grey: chance, which is what other training images would score, and the
margin above it within which no leak is claimed.
"""

import itertools
from collections.abc import Iterator

import pandas as pd
from leaks import AGGREGATE, MARGIN, of_whom
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from panels import GREY, PALE, WHOSE, blank_panels, finish, named_panels

from fl.experiment import figures, summary
from fl.experiment.layout import count

# Colours that the colour-blind can tell apart (Okabe and Ito), and a marker for each.
LOOKS = list(
    zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "osD^vP", strict=True)
)
# Dashes of a line, and how far its markers are filled.
FILLS = [("-", "full"), ((0, (4, 1.5)), "none"), ((0, (5, 1.5, 1, 1.5)), "left"), (":", "top")]
IMAGES_MIXED = (
    "Images mixed: clients \N{MULTIPLICATION SIGN} batch size \N{MULTIPLICATION SIGN} local steps"
)
PSNR = "PSNR of reconstructions (dB)"
# Column -> how figures against it are called, and their axis.
TIMES = {
    "attack_round": ("leak_rounds", "Round of the attack"),
    "window": ("leak_windows", "Rounds that the attack watches"),
}


def mixing_figures(found: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of leak against the number of images mixed in an aggregate.

    Args:
        found: from `leaks.leaks`.
    """
    found = found[found["target"] == AGGREGATE]
    lines = ["batch_size", "local_steps"]
    for name, setting, panels in named_panels("leak_images", found, [], [*WHOSE, "local_steps"]):
        ((_, view),) = panels
        figure, (axis,) = blank_panels(1)
        _draw_chance(axis, view, "images")
        batches, steps = (sorted(view[column].unique()) for column in lines)
        looks = dict(zip(batches, itertools.cycle(LOOKS)))
        fills = dict(zip(steps, itertools.cycle(FILLS)))
        for (batch, step), line in view.groupby(lines):
            _draw_line(axis, line, "images", looks[batch], fills[step])
        figures.log_ticks(axis, sorted(view["images"].unique()))
        columns = [
            [(f"Batch size {batch}", _handle(look)) for batch, look in looks.items()],
            [
                (count(step, "local step"), _handle((GREY, "o"), fill))
                for step, fill in fills.items()
            ],
        ]
        columns = columns if len(steps) > 1 else columns[:1]
        finish(figure, setting, IMAGES_MIXED, PSNR, *columns, _beside(figure))
        yield name, figure


def time_figures(found: pd.DataFrame, column: str) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of leak against the round of the attack, or the length of its window.

    Args:
        found: from `leaks.leaks`.
        column: one of `TIMES`.
    """
    by, (prefix, label) = [*WHOSE, "local_steps"], TIMES[column]
    for name, setting, panels in named_panels(prefix, found, by, [column]):
        figure, axes = blank_panels(len(panels), legend_rows=3, sharey=True)
        for axis, (values, panel) in zip(axes, panels, strict=True):
            _draw_chance(axis, panel, column)
            _draw_line(axis, panel, column, LOOKS[0])
            figures.log_ticks(axis, sorted(panel[column].unique()))
            steps = values["local_steps"]
            more = f", {count(steps, 'local step')}" if steps > 1 else ""
            axis.set_title(of_whom(setting | values) + more, pad=3)
        entries = [("Attack", _handle(LOOKS[0])), *_beside(figure)]
        finish(figure, setting, label, PSNR, entries[:2], entries[2:])
        yield name, figure


def _draw_chance(axis, view, x):
    stats = summary.mean_and_std(view, [x], "chance")
    mean = stats["mean"]
    axis.fill_between(
        stats[x],
        mean,
        mean + MARGIN,
        color=PALE,
        linewidth=0,
        label=f"Within {MARGIN:g} dB of chance",
    )
    axis.plot(stats[x], mean, color=GREY, linewidth=1, label="Chance")


def _draw_line(axis, view, x, look, fill=FILLS[0]):
    stats = summary.mean_and_std(view, [x], "leak")
    axis.errorbar(
        stats[x],
        stats["mean"],
        stats["std"].fillna(0),
        color=look[0],
        marker=look[1],
        linestyle=fill[0],
        fillstyle=fill[1],
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=1.6,
    )
    most = summary.mean_and_std(view, [x], "ceiling").dropna(subset="mean")
    axis.plot(most[x], most["mean"], color=look[0], linestyle=":", linewidth=1)


def _handle(look, fill=FILLS[0]):
    (color, marker), (dashes, filled) = look, fill
    return Line2D(
        [], [], color=color, marker=marker, markersize=4, fillstyle=filled, linestyle=dashes
    )


def _beside(figure):
    """What stands beside the attack's line, for a legend."""
    gradient = Line2D([], [], color=GREY, linestyle=":", linewidth=1)
    return [("True gradient", gradient), *figures.legend_entries(figure).items()]
