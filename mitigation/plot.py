"""Draw the results: backdoors over rounds, certificates over radii, the trigger, as PDF and PNG.

Lines are means over seeds, bands one sample standard deviation. Runs that differ in more than their
seed and defence get figures of their own. Runs that diverged are in no mean.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from result_tables import ATTACKS, DEFENCES, NEEDS, SETTING, TASK, defence_names
from schema import CURVE, RUN

from fl.experiment import figures, reports, results, summary, tables

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
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=3000 attack=one_shot")
    parser.add_argument(
        "--output", type=Path, help="folder (default: figures, beside the results file)"
    )
    parser.add_argument(
        "--no-trigger", action="store_true", help="leave out the trigger, which needs the data"
    )
    parser.add_argument("--data-dir", type=Path, help="where TensorFlow Datasets keeps data")
    options = parser.parse_args()
    frame = reports.load(parser, options, RUN, NEEDS)
    output = options.output or options.results.parent / "figures"
    history = _read(results.history_path(options.results), frame, ["round", *SCORES])
    curves = _read(results.curves_path(options.results), frame, list(CURVE))
    paths = []
    with mpl.rc_context(figures.STYLE):
        for name, figure in (*backdoor_figures(history), *certificate_figures(curves)):
            paths += figures.save(figure, output / name)
        if not options.no_trigger:
            for name in dict.fromkeys(frame["dataset"]):
                paths += _trigger(name, options.data_dir, output)
    if not paths:
        sys.exit("nothing to draw: there is neither a history nor a certificate")
    print(*paths, sep="\n")


def backdoor_figures(history: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of accuracy and attack success over rounds, one for each setting.

    Args:
        history: evaluations of finished runs.
    """
    for name, setting, view in _settings("backdoor", history):
        one_shot = setting["attack"] == "one_shot"
        figure = Figure(figsize=(figures.PAGE_WIDTH, 3.6), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # inches
        ratios = [2, 1] if one_shot else [1]
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
        if one_shot:
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
        figure = Figure(figsize=(figures.PAGE_WIDTH, 2.4), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # inches
        axes = figure.subplots(1, 2, sharex=True)
        for axis, (score, label) in zip(axes, CERTIFIED.items(), strict=True):
            # Each run has radii of its own, so that seeds cannot be averaged point by point.
            for _, run in summary.groups(view, ["line", "seed"]):
                _draw(axis, run.assign(status="ok"), "radius", score, names=view["line"])
            axis.set_ylabel(label)
            axis.set_ylim(-3, 103)
            axis.set_xlabel("Radius (L2 distance of pixel intensities)")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
        axes[0].set_title(_title(setting), pad=3)
        _legend(figure)
        yield name, figure


def _read(path, frame, needs):
    """Rows of another file that belong to the runs in `frame`, each once."""
    try:
        found = results.read(path, [*RUN, *needs])
    except results.ResultsError as error:
        print(f"left out: {error}", file=sys.stderr)
        return pd.DataFrame(columns=[*RUN, "status"])
    # A run that was killed before it was recorded, and resumed, is there twice.
    found = found.drop_duplicates([*RUN, needs[0]], keep="last")
    keys = [name for name in RUN if frame[name].notna().any() or found[name].notna().any()]
    return frame[[*keys, "status"]].merge(found, on=keys)


def _settings(prefix, rows):
    """Split rows into figures -> name, setting, rows with the column `line`."""
    if rows.empty:
        return
    by = [*TASK, *SETTING]
    rows = rows.assign(**{name: None for name in by if name not in rows})
    found = list(summary.groups(rows, by))
    names = figures.names(prefix, [setting for setting, _ in found], NAMED)
    for name, (setting, view) in zip(names, found, strict=True):
        view = view.sort_values("eps", kind="stable", na_position="first")
        view = summary.in_order(view, {"defence": list(DEFENCES)})
        yield name, setting, view.assign(line=defence_names(view))


def _draw(axis, view, x, score, names=None):
    """Draw a line and a band for each defence."""
    order = list(dict.fromkeys(view["line"] if names is None else names))
    stats = summary.mean_and_std(view.sort_values(x, kind="stable"), ["line", x], score)
    for line, points in stats.groupby("line", sort=False):
        number = order.index(line)
        mean, std = 100 * points["mean"], 100 * points["std"].fillna(0)
        color = COLORS[number % len(COLORS)]
        low, high = (mean - std).clip(0, 100), (mean + std).clip(0, 100)
        axis.fill_between(points[x], low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(
            points[x],
            mean,
            color=color,
            # A colour that comes again has other dashes.
            linestyle=DASHES[(number + number // len(COLORS)) % len(DASHES)],
            linewidth=1.3,
            label=line,
        )


def _mark_attack(axis, setting):
    """A line where the attack begins; the rounds that it lasts are shaded."""
    if setting["attack"] == "none":
        return
    start = setting["start_round"]
    end = setting["rounds"] if setting["attack"] == "continuous" else start + 1
    axis.axvline(start, color="0.35", linewidth=0.8, linestyle=(0, (2, 2)))
    axis.axvspan(start, end, color="0.93", linewidth=0, zorder=0, label="Attack")


def _title(setting):
    names = [tables.display_name(setting[name]) for name in ("dataset", "model", "algorithm")]
    return f"{', '.join(names)} under {ATTACKS.get(setting['attack'], setting['attack'])}"


def _legend(figure):
    found = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside right center", handlelength=2.6)


def _trigger(name, data_dir, output):
    """Draw the trigger on images of a data set, if that is at hand."""
    import trigger_picture  # loads the data, which other figures can do without

    from fl.data.datasets import DatasetUnavailableError

    try:
        figure = trigger_picture.draw(name, data_dir)
    except DatasetUnavailableError as error:
        print(f"no picture of the trigger on {name}: {error}", file=sys.stderr)
        return []
    return figures.save(figure, output / f"trigger_{name}")


if __name__ == "__main__":
    main()
