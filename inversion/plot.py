"""Draw the results: PSNR and SSIM by algorithm, and accuracy against PSNR, as PDF and PNG.

Marks are means over seeds, error bars one sample standard deviation. Filled marks: what the attack
makes of each client's update; open marks: of the aggregate. Grey lines: chance, which is what other
training images would score in their place. Runs that differ in more than their
seed, algorithm and data set get figures of their own. Runs that diverged are in no mean. What leaks
to attacks that watch a window of rounds is drawn against how many images are mixed, against the
rounds and the window, and beside the accuracy that protections leave.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from leak_figures import TIMES, mixing_figures, time_figures
from leaks import leaks
from marks import ERRORS, draw_point, heading, legend, mark, shades
from matplotlib.figure import Figure
from paper_figures import PAPER
from protection_figures import protection_figures
from result_tables import NEEDS
from runs import RUN
from settings import COMMON, SIGMA, TASK, is_private, the_attack

from fl.experiment import figures, reports, summary
from fl.experiment.comparison_figure import comparison_figures
from fl.experiment.names import display_name

SETTING = ["model", "attack", "restarts", *COMMON]
PANELS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
# Column prefix of a score, and what its marks are.
SOURCES = {"": "Each client's update", "global_": "Aggregate"}
# Column of a score to that of what chance would score.
CHANCE = {"psnr": "chance_psnr", "global_psnr": "global_chance_psnr"}
CLIP_MARKERS = "osD^vPX*"


def main() -> None:
    """Draw what the command line asks for and print the paths of the files."""
    parser = figures.command_line(__doc__, Path(__file__).parent, "rounds=750 attack=cosine")
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        found = comparison_figures(frame, PAPER)
        figures.save_all(found, options, "the paper has none of these runs")
        return
    # What watches a window is no step's attack among others: it has figures of its own.
    single = frame[frame["window"].isna() & frame["psnr"].notna()]
    leaking = leaks(frame)
    leaking = leaking[leaking["leak"].notna()]
    found = itertools.chain(
        score_figures(single[~is_private(single)]),
        trade_figures(single),
        mixing_figures(leaking),
        *(time_figures(leaking, column) for column in TIMES),
        protection_figures(leaking),
    )
    figures.save_all(found, options, "no run has a PSNR, or what it would stand beside")


def score_figures(frame: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of PSNR and SSIM by data set and algorithm, one for each setting.

    Args:
        frame: runs without differential privacy.
    """
    found = list(summary.groups(frame, SETTING))
    for name, setting, view in figures.named("scores", found, ("model", "attack")):
        view = view.assign(task=_tasks(view))
        tasks, algorithms = (
            list(dict.fromkeys(view["task"])),
            view["algorithm"].sort_values().unique(),
        )
        # Room for every mark with its error bar.
        wide = len(tasks) * len(algorithms) > 12
        width = figures.PAGE_WIDTH if wide else figures.COLUMN_WIDTH
        figure = figures.blank(width, 3.3, gap=0.03)
        axes = figure.subplots(len(PANELS), 1, sharex=True)
        for axis, (metric, label) in zip(axes, PANELS.items(), strict=True):
            _draw_scores(axis, view, metric, tasks, algorithms)
            axis.set_ylabel(label)
        model = display_name(setting["model"])
        axes[0].set_title(f"{model}, {the_attack(setting)}", pad=3)
        axes[-1].set_xticks(range(len(tasks)), tasks)
        figure.align_ylabels(axes)
        known = list(figures.legend_entries(figure).items())
        half = (len(known) + 1) // 2
        legend(figure, known[:half], known[half:], _source_entries())
        yield name, figure


def trade_figures(frame: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of accuracy against PSNR, one for each grid of clip and noise.

    Algorithms without differential privacy are there as reference marks.

    Args:
        frame: runs with and without differential privacy.
    """
    by = [*TASK, *(name for name in SETTING if name not in TASK)]
    found = [
        ({**setting, **values}, rows[~is_private(rows)], grid)
        for setting, rows in summary.groups(frame, by)
        for values, grid in summary.groups(rows[is_private(rows)], ["algorithm"])
    ]
    shown = ("dataset", "model", "attack")
    for name, setting, reference, grid in figures.named("tradeoff", found, shown):
        figure = figures.blank(figures.COLUMN_WIDTH, 3.4)
        axis = figure.subplots()
        shapes, tones = _draw_grid(axis, grid)
        _draw_reference(axis, reference)
        task = [display_name(setting[name]) for name in ("dataset", "model")]
        axis.set_title(", ".join([*task, the_attack(setting)]), pad=3)
        axis.set_xlabel("PSNR of reconstructions (dB): higher leaks more")
        axis.set_ylabel("Test accuracy (%)")
        axis.margins(0.08)
        algorithm = display_name(setting["algorithm"])
        known = figures.legend_entries(figure).items()
        legend(
            figure,
            [heading(f"{algorithm}, clip"), *shapes],
            [heading(f"{algorithm}, noise"), *tones],
            *([[heading("Without DP"), *known]] if known else []),
        )
        yield name, figure


def _tasks(view):
    """Names of data sets, with the clients and the accuracy aimed at where these differ."""
    texts = view["dataset"].map(display_name).astype(str)
    for column, form in (("clients", "{:,} clients"), ("converge", "until {:.0%}")):
        differs = view.groupby("dataset")[column].transform("nunique", dropna=False) > 1
        more = view[column].map(
            lambda value, form=form: "" if pd.isna(value) else form.format(value)
        )
        texts = texts + ("\n" + more).where(differs, "")
    return texts


def _draw_scores(axis, view, metric, tasks, algorithms):
    """Draw a filled and an open mark for each algorithm and data set, side by side, and chance."""
    slot = 0.8 / len(algorithms)
    for source in SOURCES:
        stats = summary.mean_and_std(view, ["task", "algorithm"], source + metric)
        chance = CHANCE.get(source + metric)
        if chance:
            by_chance = summary.mean_and_std(view, ["task", "algorithm"], chance)
        for number, algorithm in enumerate(algorithms):
            look, own = figures.look(algorithm), stats[stats["algorithm"] == algorithm]
            shift = (number - (len(algorithms) - 1) / 2) * slot + (0.22 if source else -0.22) * slot
            axis.errorbar(
                own["task"].map(tasks.index) + shift,
                own["mean"],
                own["std"].fillna(0),
                color=look.color,
                marker=look.marker,
                markersize=4,
                markerfacecolor="white" if source else look.color,
                label=None if source else display_name(algorithm),
                **ERRORS,
            )
            if chance:
                own = by_chance[by_chance["algorithm"] == algorithm]
                places = own["task"].map(tasks.index) + shift
                axis.plot(places, own["mean"], "_", color="0.5", markersize=9)
    axis.set_xlim(-0.5, len(tasks) - 0.5)
    axis.grid(visible=False, axis="x")
    axis.tick_params(axis="x", length=0)
    for edge in range(1, len(tasks)):
        axis.axvline(edge - 0.5, color="0.85", linewidth=0.6)
    # Zero means nothing on the scale of decibels: no need to start there.
    if metric != "psnr":
        axis.set_ylim(bottom=0)


def _source_entries():
    sources = [
        (label, mark("o", "0.3", "white" if source else "0.3")) for source, label in SOURCES.items()
    ]
    return [*sources, ("Chance", mark("_", "0.5", "0.5"))]


def _draw_grid(axis, grid):
    """Draw a mark for each clipping bound (its shape) and noise (its colour); return the legend."""
    stats = summary.mean_and_std(grid, ["clip", "noise"], "psnr")
    heights = summary.mean_and_std(grid, ["clip", "noise"], "final_accuracy")
    stats = stats.merge(heights, on=["clip", "noise"], suffixes=("", "_accuracy"))
    clips, noises = (sorted(grid[name].unique()) for name in ("clip", "noise"))
    colors = dict(zip(noises, shades(len(noises)), strict=True))
    markers = {clip: CLIP_MARKERS[n % len(CLIP_MARKERS)] for n, clip in enumerate(clips)}
    for point in stats.itertuples():
        color = colors[point.noise]
        draw_point(axis, *_place(point), markers[point.clip], color, color)
    shapes = [(f"C = {clip:g}", mark(markers[clip], "0.3", "0.3")) for clip in clips]
    tones = [(f"{SIGMA} = {n:g}", mark("s", colors[n], colors[n])) for n in noises]
    return shapes, tones


def _draw_reference(axis, reference):
    stats = summary.mean_and_std(reference, ["algorithm"], "psnr")
    heights = summary.mean_and_std(reference, ["algorithm"], "final_accuracy")
    stats = stats.merge(heights, on="algorithm", suffixes=("", "_accuracy"))
    for point in stats.itertuples():
        look = figures.look(point.algorithm)
        label = display_name(point.algorithm)
        draw_point(axis, *_place(point), look.marker, look.color, "white", label)


def _place(point):
    return (point.mean, point.std), (point.mean_accuracy, point.std_accuracy)


if __name__ == "__main__":
    main()
