"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

First table: final test accuracy of each algorithm on each data set and model, at one local step
and alpha = 0.5. Then, where there are several, accuracy by alpha and number of local steps.
Runs that differ in more than their seed are never averaged: they get tables of their own.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from paper_figures import PAPER
from runs import RUN

from fl.experiment import ablation, comparison, layout, reports, results, summary, tables
from fl.experiment.layout import Metric, count
from fl.experiment.names import display_name
from fl.experiment.reports import Table

MAIN_SETTING = {"alpha": 0.5, "local_steps": 1}
# The same for all runs in a table of algorithms, and in a grid of local steps.
SETTING = [
    *("clients", "rounds", "batch_size", "partition", "alpha", "local_steps"),
    *("variant", "departures", "overrides"),
]
GRID = [
    *("dataset", "model", "clients", "batch_size", "partition"),
    *("variant", "departures", "overrides"),
]

NEEDS = ["status", "final_accuracy", "rounds_to_convergence"]
PUBLISHED = "3,000 local steps in all"
# Rows and columns of a table of algorithms.
BY_ALGORITHM = (["algorithm"], ["dataset", "model"])
# Who forms SecAdam's ratio, in words.
RATIO = {"masked": "ratios formed by the server", "committee": "ratios formed by a committee"}
ACCURACY = Metric(
    "final_accuracy", "", "Final test accuracy (%)", 100, 1, always=True, missing="missing"
)
CONVERGENCE = Metric(
    *("rounds_to_convergence", "", "Rounds until the test accuracy reached the one in parentheses"),
    **{"decimals": 0, "always": True, "missing": "not reached"},
)


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=3000 aggregation=clear")
    parser.add_argument("--convergence", action="store_true", help="rounds to convergence instead")
    reports.add_table_options(parser)
    parser.add_argument("--bold", action="store_true", help="set the best means in bold")
    parser.add_argument("--decimals", type=int, default=1, help="of accuracies (default: 1)")
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        comparison.show(frame, PAPER, "performance", options)
        return
    if options.ablate:
        ablation.show(frame, PAPER, "performance", options)
        return
    paper = reports.read_paper(options.paper, PAPER.keys)

    # A run that stops at convergence has no final accuracy to compare.
    frame = frame[frame["convergence"].notna() == options.convergence]
    setting = MAIN_SETTING | dict(options.select)
    if options.convergence:
        found = convergence_tables(frame, setting)
    else:
        metric = ACCURACY._replace(decimals=options.decimals)
        found = [
            *accuracy_tables(frame, setting, metric, paper),
            *grid_tables(frame, metric, paper),
        ]
    found = [table if options.bold else table._replace(bold=None) for table in found]
    chosen = ", ".join(f"{name}={value}" for name, value in setting.items())
    other = "without" if options.convergence else "with"
    hint = f"these have {chosen}; choose others with --select, or try {other} --convergence"
    reports.show(found, frame, "performance", options, hint)


def aggregation_views(frame: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Split runs where an algorithm ran under the protocol and in the clear, or with two ratios.

    Yields:
        The aggregation and the ratio (each empty if there is nothing to split) and their runs,
        together with those of the algorithms that never ran with them, so that FedAvg, say, stands
        beside SecAdam.
    """
    for aggregation, view in _by_aggregation(frame):
        ratios = sorted(view["ratio"].dropna().unique())
        for ratio in ratios if len(ratios) > 1 else [""]:
            own = view["ratio"].isin([ratio]) | view["ratio"].isna() if ratio else slice(None)
            yield {"aggregation": aggregation, "ratio": ratio}, view[own]


def _by_aggregation(frame):
    kinds = frame.groupby("algorithm")["aggregation"].nunique()
    both = frame["algorithm"].isin(kinds.index[kinds > 1])
    if not both.any():
        yield "", frame
        return
    tasks = pd.MultiIndex.from_frame(frame[["dataset", "model"]])
    for name in sorted(set(frame["aggregation"]), reverse=True):  # protocol, then clear
        same = frame["aggregation"] == name
        # A task where those that ran both ways ran only the other way would be half a comparison.
        half = tasks.isin(tasks[both]) & ~tasks.isin(tasks[both & same])
        never = ~frame["algorithm"].isin(frame["algorithm"][same])
        yield name, frame[(same | never) & ~half]


def grids(frame: pd.DataFrame) -> Iterator[tuple[dict, dict, pd.DataFrame]]:
    """Yield the setting, how sums were made (or empty) and the runs of each grid of local steps."""
    for setting, rows in summary.groups(frame, GRID):
        for how, view in aggregation_views(rows):
            for grid in _step_views(view):
                own = grid
                for name, value in how.items():
                    own = own[own[name] == value] if value else own
                if own["local_steps"].nunique() > 1:
                    yield setting, how, grid


def _step_views(frame):
    """Split runs so that each number of local steps has one number of rounds.

    A grid runs for a fixed number of local steps in all, so for fewer rounds of more steps.
    """
    rounds, steps = frame["rounds"], frame["local_steps"]
    if rounds.groupby(steps).nunique().max() == 1:
        return [frame]
    return [view for _, view in frame.groupby(total_steps(frame), sort=False)]


def total_steps(frame: pd.DataFrame) -> pd.Series:
    """Local steps that each run takes in all; those of one grid agree despite rounding."""
    total = frame["rounds"] * frame["local_steps"]
    for whole in frame["rounds"][frame["local_steps"] == 1].unique():
        # 66 rounds of 3 local steps belong to a grid of 200.
        total = total.mask((total - whole).abs() < frame["local_steps"], whole)
    return total


def accuracy_tables(
    frame: pd.DataFrame, setting: dict, metric: Metric, paper: pd.DataFrame | None
) -> Iterator[Table]:
    """Final accuracy of algorithms by data set and model, a table for each setting of the runs."""
    for values, view in _settings(frame, setting):
        yield _table("accuracy", view, BY_ALGORITHM, metric, values, _rounds(view), paper)


def convergence_tables(frame: pd.DataFrame, setting: dict) -> Iterator[Table]:
    """Rounds until an accuracy was reached, by data set and model, a table for each setting."""
    aims = frame["convergence"].map(" ({:.0%})".format)
    names = frame["dataset"].map(display_name).astype(str) + aims
    tasks = sorted(zip(frame["dataset"].cat.codes, frame["convergence"], names, strict=True))
    frame = frame.assign(dataset=summary.ordered(names, [name for *_, name in tasks]))
    for values, view in _settings(frame, setting):
        rounds = f"at most {_rounds(view)}"
        yield _table("convergence", view, BY_ALGORITHM, CONVERGENCE, values, rounds)


def grid_tables(frame: pd.DataFrame, metric: Metric, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Final accuracy of algorithms by alpha and local steps, a table for each grid."""
    for setting, _, view in grids(frame):
        # Only the LDA partition has an alpha.
        rows = [name for name in ("alpha", "local_steps") if view[name].notna().all()]
        task = ", ".join(display_name(setting[name]) for name in ("dataset", "model"))
        own = metric._replace(name=f"{task}: {metric.name.lower()}")
        name = f"local-steps-{setting['dataset']}-{setting['model']}"
        yield _table(name, view, (rows, ["algorithm"]), own, setting, _rounds(view), paper)


def _table(name, view, axes, metric, setting, rounds, paper=None):
    """A table of one metric.

    Args:
        name: for its label.
        view: the runs.
        axes: columns for the rows and for the columns of the table.
        metric: what it shows; its name begins the caption.
        setting: what the runs share.
        rounds: how many, in words.
        paper: published figures, or None.
    """
    cells, stats = layout.lay_out(view, *axes, [metric], paper, PAPER.keys)
    phrases = layout.describe(setting, rounds)
    notes = layout.notes(stats, "that did not get there", PUBLISHED)
    return Table(
        name=name,
        caption=layout.caption(
            metric.name, view, RUN, phrases, [_describe_aggregation(view), *notes]
        ),
        cells=cells,
        bold=tables.best(
            stats[stats["source"] == ""],
            *axes,
            along="columns" if axes[1] == ["algorithm"] else "rows",
            largest=metric.column == ACCURACY.column,
            decimals=metric.decimals + (2 if metric.scale == 100 else 0),
        ),
        runs=view.index,
    )


def _settings(frame, setting):
    others = {name: value for name, value in setting.items() if name != "alpha"}
    alpha = results.matches(frame, {"alpha": setting["alpha"]}) | (frame["partition"] != "lda")
    for values, rows in summary.groups(frame[results.matches(frame, others) & alpha], SETTING):
        for _, view in aggregation_views(rows):
            yield values, view


def _rounds(view):
    rounds = view.groupby("local_steps")["rounds"].first()
    if rounds.nunique() == 1:
        return count(rounds.iloc[0], "round")
    totals = total_steps(view)
    if totals.nunique() == 1:
        return f"{totals.iloc[0]:,} local steps in all"
    return "rounds by local steps: " + ", ".join(f"{r:,} of {s}" for s, r in rounds.items())


def _describe_aggregation(view):
    kinds = view.groupby("algorithm")["aggregation"].first()
    secure = [display_name(name) for name in kinds.index[kinds == "protocol"]]
    if not secure:
        return "All sums in the clear"
    formed = "".join(f", {RATIO[ratio]}" for ratio in view["ratio"].dropna().unique())
    if len(secure) == len(kinds):
        return f"All sums under secure aggregation{formed}"
    return f"Sums under secure aggregation for {', '.join(secure)}{formed}, in the clear otherwise"


if __name__ == "__main__":
    main()
