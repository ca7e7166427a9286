"""Draw the results: accuracy against local steps, and accuracy against rounds, as PDF and PNG.

Lines are means over seeds, bands one sample standard deviation. Runs that differ in more than their
seed and algorithm get figures or panels of their own. A cross on the lower edge stands for runs
that diverged; they are in no mean.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from paper_figures import PAPER
from result_tables import NEEDS, aggregation_views, grids, total_steps
from runs import RUN

from fl.experiment import figures, layout, reports, results, summary
from fl.experiment.comparison_figure import comparison_figures
from fl.experiment.names import display_name

TASK = ("dataset", "model")  # in the name of every figure
MARKERS = 8  # on a line of many points


def main() -> None:
    """Draw what the command line asks for and print the paths of the files."""
    parser = figures.command_line(__doc__, Path(__file__).parent, "rounds=3000 aggregation=clear")
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        found = comparison_figures(frame, PAPER)
        figures.save_all(found, options, "the paper has none of these runs")
        return
    path = results.history_path(options.results)
    history = reports.read_beside(path, frame, RUN, ["round", "accuracy"])
    found = itertools.chain(local_step_figures(frame), round_figures(history))
    otherwise = "there is neither a history nor a second number of local steps"
    figures.save_all(found, options, otherwise)


def local_step_figures(frame: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of final accuracy against local steps, a panel for each alpha.

    Args:
        frame: finished runs.
    """
    # A run that stops at convergence has no final accuracy to compare.
    found = [
        ({**setting, **how, "rounds": total_steps(grid).iloc[0]}, grid)
        for setting, how, grid in grids(frame[frame["convergence"].isna()])
    ]
    for name, _, grid in figures.named("local_steps", found, TASK):
        stats = summary.mean_and_std(grid, ["alpha", "algorithm", "local_steps"], "final_accuracy")
        panels = list(summary.groups(stats, ["alpha"]))
        figure, axes = _panels(len(panels))
        for axis, (values, panel) in zip(axes, panels, strict=True):
            if pd.notna(values["alpha"]):
                axis.set_title(f"{layout.ALPHA} = {values['alpha']:g}", pad=3)
            _draw(axis, panel, "local_steps", panel)
            figures.log_ticks(axis, sorted(grid["local_steps"].unique()))
        _label(figure, "Local steps per round")
        yield name, figure


def round_figures(history: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of accuracy against rounds, one for each setting.

    Args:
        history: evaluations of finished runs, with the status of the run.
    """
    setting = [name for name in RUN if name not in ("algorithm", "seed", "aggregation", "ratio")]
    found = [
        ({**values, **how}, view)
        for values, rows in summary.groups(history, setting)
        for how, view in aggregation_views(rows)
    ]
    for name, _, view in figures.named("accuracy", found, TASK):
        stats = summary.mean_and_std(view, ["algorithm", "round"], "accuracy")
        # A line ends where the first of its runs does (at convergence): behind that, the mean
        # would jump as runs drop out.
        runs = stats.groupby("algorithm")["runs"]
        figure, axes = _panels(1)
        last = stats.groupby("algorithm").tail(1)
        _draw(axes[0], stats[stats["runs"] == runs.transform("max")], "round", last)
        axes[0].locator_params(axis="x", nbins=6, integer=True)
        axes[0].xaxis.set_major_formatter("{x:,.0f}")
        _label(figure, "Round")
        yield name, figure


def _panels(count):
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    height = 2.5 if count == 1 else 0.6 + 1.45 * rows
    figure = figures.blank(figures.COLUMN_WIDTH, height)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _draw(axis, stats, x, crosses):
    """Draw a line and a band for each algorithm, and crosses where runs diverged.

    Args:
        axis: to draw on.
        stats: from `mean_and_std` of accuracies, with the columns algorithm and `x`.
        x: column for the horizontal axis.
        crosses: rows of such statistics whose diverged runs get a cross.
    """
    crossed = 0
    lines = list(stats.groupby("algorithm"))
    for number, (algorithm, line) in enumerate(lines):
        look = figures.look(algorithm)
        # Markers of different lines sit at different places, lest they hide each other.
        step = max(1, len(line) // MARKERS)
        figures.draw_shares(
            axis,
            line[x],
            line,
            look.color,
            linestyle=look.dashes,
            linewidth=look.width,
            marker=look.marker,
            markevery=(number * step // len(lines), step),
            label=display_name(algorithm),
        )
        diverged = crosses[(crosses["algorithm"] == algorithm) & (crosses["diverged"] > 0)]
        if len(diverged):
            axis.plot(
                diverged[x],
                [0.03 + 0.05 * crossed] * len(diverged),  # of the height of the panel
                color=look.color,
                linestyle="",
                marker="x",
                markersize=4,
                markeredgewidth=1.2,
                label="Diverged",
                transform=axis.get_xaxis_transform(),
            )
            crossed += 1


def _label(figure, x):
    figure.supxlabel(x, fontsize=8)
    figure.supylabel("Test accuracy (%)", fontsize=8)
    entries = figures.legend_entries(figure)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=3,
        columnspacing=1.1,
        handlelength=2.6,
    )


if __name__ == "__main__":
    main()
