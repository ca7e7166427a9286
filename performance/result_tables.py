"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

First table: final test accuracy of each algorithm on each data set and model, at one local step
and alpha = 0.5. Then, where there are several, accuracy by alpha and number of local steps.
Runs that differ in more than their seed are never averaged: they get tables of their own.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from runs import RUN

from fl.experiment import reports, results, summary, tables
from fl.experiment.reports import Table, count

MAIN_SETTING = {"alpha": 0.5, "local_steps": 1}
# The same for all runs in a table of algorithms, and in a grid of local steps.
SETTING = [
    *("clients", "rounds", "batch_size", "partition", "alpha", "local_steps"),
    *("variant", "overrides"),
]
GRID = ["dataset", "model", "clients", "batch_size", "partition", "variant", "overrides"]

NEEDS = ["status", "final_accuracy", "rounds_to_convergence"]
PAPER = ["dataset", "model", "clients", "algorithm", "alpha", "local_steps"]
PAPER_STEPS = 3000


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=3000 aggregation=clear")
    parser.add_argument("--convergence", action="store_true", help="rounds to convergence instead")
    reports.add_table_options(parser)
    parser.add_argument("--bold", action="store_true", help="set the best means in bold")
    parser.add_argument("--decimals", type=int, default=1, help="of accuracies (default: 1)")
    options = parser.parse_args()
    frame = reports.load(parser, options, RUN, NEEDS)
    paper = reports.read_paper(options.paper, PAPER)
    if paper is not None:
        paper = paper[paper["metric"] == "final_accuracy"]

    # A run that stops at convergence has no final accuracy to compare.
    frame = frame[frame["convergence"].notna() == options.convergence]
    setting = MAIN_SETTING | dict(options.select)
    if options.convergence:
        found = list(convergence_tables(frame, setting))
    else:
        found = [
            *accuracy_tables(frame, setting, paper, options.decimals),
            *grid_tables(frame, paper, options.decimals),
        ]
    if not found:
        chosen = ", ".join(f"{name}={value}" for name, value in setting.items())
        other = "without" if options.convergence else "with"
        sys.exit(f"no runs with {chosen}: choose with --select, or try {other} --convergence")
    texts = reports.typeset(found, "performance", options.markdown, options.bold)
    print("\n".join(texts), end="")
    if left_out := reports.count_left_out(frame, found):
        print(f"note: {left_out} other runs: choose them with --select", file=sys.stderr)


def aggregation_views(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split runs where an algorithm ran both under the protocol and in the clear.

    Yields:
        The aggregation (empty if there is nothing to split) and its runs, together with those of
        the algorithms that never ran with it, so that FedAvg, say, stands beside SecAdam.
    """
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


def grids(frame: pd.DataFrame) -> Iterator[tuple[dict, str, pd.DataFrame]]:
    """Yield the setting, the aggregation (or empty) and the runs of each grid of local steps."""
    for setting, rows in summary.groups(frame, GRID):
        for aggregation, view in aggregation_views(rows):
            for grid in _step_views(view):
                own = grid[grid["aggregation"] == aggregation] if aggregation else grid
                if own["local_steps"].nunique() > 1:
                    yield setting, aggregation, grid


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
    frame: pd.DataFrame, setting: dict, paper: pd.DataFrame | None, decimals: int
) -> Iterator[Table]:
    """Final accuracy of algorithms by data set and model, a table for each setting of the runs."""
    rows, columns = ["algorithm"], ["dataset", "model"]
    for values, view in _settings(frame, setting):
        stats = _statistics(view, [*columns, *rows], "final_accuracy", paper)
        labels, order = reports.labelled(stats, rows, columns, _text)
        yield Table(
            name="accuracy",
            caption=_caption("Final test accuracy (%)", view, stats, values, _rounds(view)),
            cells=tables.text_table(labels, rows, columns, 100, decimals, order=order),
            best=tables.best(_ours(labels), rows, columns, decimals=decimals + 2),
            runs=view.index,
        )


def convergence_tables(frame: pd.DataFrame, setting: dict) -> Iterator[Table]:
    """Rounds until an accuracy was reached, by data set and model, a table for each setting."""
    rows, columns = ["algorithm"], ["dataset", "model"]
    names = frame["dataset"].map(tables.display_name) + frame["convergence"].map(" ({:.0%})".format)
    for values, view in _settings(frame.assign(dataset=names), setting):
        stats = _statistics(view, [*columns, *rows], "rounds_to_convergence", None)
        labels, order = reports.labelled(stats, rows, columns, _text)
        what = "Rounds until the test accuracy reached the one in parentheses"
        yield Table(
            name="convergence",
            caption=_caption(what, view, stats, values, f"at most {_rounds(view)}"),
            cells=tables.text_table(labels, rows, columns, 1, 0, "not reached", order),
            best=tables.best(labels, rows, columns, largest=False, decimals=0),
            runs=view.index,
        )


def grid_tables(frame: pd.DataFrame, paper: pd.DataFrame | None, decimals: int) -> Iterator[Table]:
    """Final accuracy of algorithms by alpha and local steps, a table for each grid."""
    for setting, _, view in grids(frame):
        # Only the LDA partition has an alpha.
        rows = [name for name in ("alpha", "local_steps") if view[name].notna().all()]
        stats = _statistics(view, [*rows, "algorithm"], "final_accuracy", paper)
        labels, order = reports.labelled(stats, rows, ["algorithm"], _text)
        names = [tables.display_name(setting[name]) for name in ("dataset", "model")]
        what = f"{', '.join(names)}: final test accuracy (%)"
        yield Table(
            name=f"local-steps-{setting['dataset']}-{setting['model']}",
            caption=_caption(what, view, stats, setting, _rounds(view)),
            cells=tables.text_table(labels, rows, ["algorithm"], 100, decimals, order=order),
            best=tables.best(_ours(labels), rows, ["algorithm"], "columns", decimals=decimals + 2),
            runs=view.index,
        )


def _settings(frame, setting):
    others = {name: value for name, value in setting.items() if name != "alpha"}
    alpha = results.matches(frame, {"alpha": setting["alpha"]}) | (frame["partition"] != "lda")
    for values, rows in summary.groups(frame[results.matches(frame, others) & alpha], SETTING):
        for _, view in aggregation_views(rows):
            yield values, view


def _statistics(view, by, value, paper):
    return reports.with_published(summary.mean_and_std(view, by, value), paper, view, PAPER)


def _ours(stats):
    return stats[stats["source"] == ""]


def _text(name, key):
    if name == "alpha":
        return f"{reports.ALPHA} = {key:g}"
    return tables.display_name(key, short=True) if isinstance(key, str) else str(key)


def _caption(what, view, stats, setting, rounds):
    spread = "mean (standard deviation) over " if stats["std"].notna().any() else ""
    sentences = [
        f"{what}, {spread}{reports.describe_seeds(view, RUN)}",
        ", ".join([*_describe(setting), rounds]),
        _describe_aggregation(view),
    ]
    if stats["diverged"].any():
        sentences.append("Each † stands for a run that diverged and is left out of the mean")
    if stats["missing"].any():
        sentences.append("Each ‡ stands for a run that did not get there, left out of the mean")
    if len(_ours(stats)) < len(stats):
        sentences.append(f"Rows marked paper: as published, for {PAPER_STEPS:,} local steps in all")
    return ". ".join(sentences) + "."


def _describe(setting):
    """Say what the runs of a table share, in a list of phrases."""
    phrases = [
        count(setting["clients"], "client"),
        f"batch size {setting['batch_size']}",
        reports.describe_partition(setting),
        f"{setting['variant']} variant",
    ]
    if "local_steps" in setting:
        phrases.append(f"{count(setting['local_steps'], 'local step')} a round")
    if pd.notna(setting["overrides"]):
        phrases.append(setting["overrides"])
    return phrases


def _rounds(view):
    rounds = view.groupby("local_steps")["rounds"].first().sort_index()
    if rounds.nunique() == 1:
        return count(rounds.iloc[0], "round")
    totals = total_steps(view)
    if totals.nunique() == 1:
        return f"{totals.iloc[0]:,} local steps in all"
    return "rounds by local steps: " + ", ".join(f"{r:,} of {s}" for s, r in rounds.items())


def _describe_aggregation(view):
    kinds = view.groupby("algorithm", sort=False)["aggregation"].first()
    secure = [tables.display_name(name) for name in kinds.index[kinds == "protocol"]]
    if not secure:
        return "All sums in the clear"
    if len(secure) == len(kinds):
        return "All sums under secure aggregation"
    return f"Sums under secure aggregation for {', '.join(secure)}, in the clear otherwise"


if __name__ == "__main__":
    main()
