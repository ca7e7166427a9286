"""Draw the results: backdoors over rounds, certificates over radii, the trigger, as PDF and PNG.

Lines are means over seeds, bands one sample standard deviation. Runs that differ in more than their
seed and defence get figures of their own. Runs that diverged are in no mean.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import trigger_picture
from attacks import ATTACKS
from matplotlib.figure import Figure
from paper_figures import PAPER
from result_tables import NEEDS, SETTING, TASK, defence_names, in_order
from runs import CURVE, RUN

from fl.data.datasets import DatasetUnavailableError
from fl.experiment import figures, reports, results, summary
from fl.experiment.comparison_figure import comparison_figures
from fl.experiment.names import display_name

NAMED = ("dataset", "model", "attack")  # in the name of every figure
# Colours that the colour-blind can tell apart, and dashes for those who see none.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "0.5")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
SCORES = {"accuracy": "Test accuracy (%)", "asr": "Attack success (%)"}
CERTIFIED = {"certified_accuracy": "Certified accuracy (%)", "certified_asr": "Certified ASR (%)"}
# Rounds around a one-shot attack that are drawn larger.
BEFORE, AFTER = 2, 12


def main() -> None:
    """Draw what the command line asks for and print the paths of the files."""
    parser = figures.command_line(__doc__, Path(__file__).parent, "rounds=3000 attack=one_shot")
    parser.add_argument(
        "--no-trigger", action="store_true", help="leave out the trigger, which needs the data"
    )
    parser.add_argument("--data-dir", type=Path, help="where TensorFlow Datasets keeps data")
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        found = comparison_figures(frame, PAPER)
        figures.save_all(found, options, "the paper has none of these runs")
        return
    beside = results.history_path(options.results), results.curves_path(options.results)
    history = reports.read_beside(beside[0], frame, RUN, ["round", *SCORES])
    curves = reports.read_beside(beside[1], frame, RUN, CURVE)
    shown = [] if options.no_trigger else frame["dataset"].unique()
    found = itertools.chain(
        backdoor_figures(history),
        certificate_figures(curves),
        trigger_figures(shown, options.data_dir),
    )
    figures.save_all(found, options, "there is neither a history nor a certificate")


def backdoor_figures(history: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of accuracy and attack success over rounds, one for each setting.

    Args:
        history: evaluations of finished runs.
    """
    for name, setting, view in _settings("backdoor", history):
        attack = ATTACKS[setting["attack"]]
        passes = attack.adversaries is not None and not attack.lasts
        figure = figures.blank(figures.PAGE_WIDTH, 3.6, gap=0.03)
        ratios = [2, 1] if passes else [1]
        axes = figure.subplots(2, len(ratios), width_ratios=ratios, sharey="row", squeeze=False)
        for row, (score, label) in zip(axes, SCORES.items(), strict=True):
            row[0].set_ylabel(label)
            for axis in row:
                _draw(axis, view, "round", score)
                _mark_attack(axis, setting)
                axis.set_ylim(-3, 103)
        for axis in axes[0]:
            axis.tick_params(labelbottom=False)
        for column, axis in enumerate(axes[1]):
            axis.set_xlabel("Round")
            axis.locator_params(axis="x", nbins=6 if column == 0 else 4, integer=True)
            axis.xaxis.set_major_formatter("{x:,.0f}")
        if passes:
            for axis in axes[:, 1]:
                axis.set_xlim(setting["start_round"] - BEFORE, setting["start_round"] + AFTER)
            axes[0, 1].set_title("around the attack", pad=3)
        axes[0, 0].set_title(_title(setting), pad=3)
        _legend(figure)
        yield name, figure


def certificate_figures(curves: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of certified accuracy and attack success against radius.

    Args:
        curves: points of the certificates of finished runs.
    """
    for name, setting, view in _settings("certificate", curves):
        figure = figures.blank(figures.PAGE_WIDTH, 2.4)
        axes = figure.subplots(1, 2, sharex=True)
        for axis, (score, label) in zip(axes, CERTIFIED.items(), strict=True):
            # Each run has radii of its own, so that seeds cannot be averaged point by point.
            for _, run in summary.groups(view, ["line", "seed"]):
                _draw(axis, run.assign(status="ok"), "radius", score)
            axis.set_ylabel(label)
            axis.set_ylim(-3, 103)
            axis.set_xlabel("Radius (L2 distance of pixel intensities)")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
        axes[0].set_title(_title(setting), pad=3)
        _legend(figure)
        yield name, figure


def trigger_figures(names: Iterable[str], data_dir: Path | None) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of the trigger on images of each data set that is at hand.

    Args:
        names: of data sets.
        data_dir: as for `fl.data.datasets.load`.
    """
    for name in names:
        try:
            yield f"trigger_{name}", trigger_picture.draw(name, data_dir)
        except DatasetUnavailableError as error:
            print(f"no picture of the trigger on {name}: {error}", file=sys.stderr)


def _settings(prefix, rows):
    """Split rows into figures -> name, setting, rows with the column `line`."""
    by = [*TASK, *SETTING]
    rows = in_order(rows.assign(**{name: None for name in by if name not in rows}))
    found = [
        (setting, view.assign(line=defence_names(view)))
        for setting, view in summary.groups(rows, by)
    ]
    return figures.named(prefix, found, NAMED)


def _draw(axis, view, x, score):
    """Draw a line and a band for each defence."""
    stats = summary.mean_and_std(view, ["line", x], score)
    for line, points in stats.groupby("line"):
        # A line has its colour also where the run has not all the lines.
        number = view["line"].cat.categories.get_loc(line)
        figures.draw_shares(
            axis,
            points[x],
            points,
            COLORS[number % len(COLORS)],
            # A colour that comes again has other dashes.
            linestyle=DASHES[(number + number // len(COLORS)) % len(DASHES)],
            linewidth=1.3,
            label=line,
        )


def _mark_attack(axis, setting):
    """A line where the attack begins; the rounds that it lasts are shaded."""
    attack = ATTACKS[setting["attack"]]
    if attack.adversaries is None:
        return
    start = setting["start_round"]
    end = setting["rounds"] if attack.lasts else start + 1
    axis.axvline(start, color="0.35", linewidth=0.8, linestyle=(0, (2, 2)))
    axis.axvspan(start, end, color="0.93", linewidth=0, zorder=0, label="Attack")


def _title(setting):
    names = [display_name(setting[name]) for name in ("dataset", "model", "algorithm")]
    return f"{', '.join(names)} under {ATTACKS[setting['attack']].title}"


def _legend(figure):
    entries = figures.legend_entries(figure)
    figure.legend(entries.values(), entries.keys(), loc="outside right center", handlelength=2.6)


if __name__ == "__main__":
    main()
