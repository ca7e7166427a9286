"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

First table: final test accuracy of each algorithm on each data set and model, at one local step
and alpha = 0.5. Then, where there are several, accuracy by alpha and number of local steps.
Runs that differ in more than their seed are never averaged: they get tables of their own.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from schema import RUN

from fl import results, summary, tables

MAIN_SETTING = {"alpha": 0.5, "local_steps": 1}
# The same for all runs in a table of algorithms, and in a grid of local steps.
SETTING = [
    *("clients", "rounds", "batch_size", "partition", "alpha", "local_steps"),
    *("variant", "overrides"),
]
GRID = ["dataset", "model", "clients", "batch_size", "partition", "variant", "overrides"]

PAPER = ["dataset", "model", "clients", "algorithm", "alpha", "local_steps"]
PAPER_STEPS = 3000
PUBLISHED = ", paper"
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
PARTITIONS = {
    "lda": "LDA partition",
    "iid": "IID partition",
    "homogeneous": "all samples at every client",
    "shards": "partition into shards",
    "classes": "assigned classes",
}


class Table(NamedTuple):
    """A table ready to print."""

    name: str  # for the LaTeX label
    caption: str
    cells: pd.DataFrame  # text
    best: pd.DataFrame  # mask of the cells with the best means
    runs: pd.Index  # that it shows


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = command_line(__doc__)
    parser.add_argument("--convergence", action="store_true", help="rounds to convergence instead")
    parser.add_argument("--paper", type=Path, metavar="CSV", help="published figures to set beside")
    parser.add_argument("--markdown", action="store_true", help="tables for GitHub, not for LaTeX")
    parser.add_argument("--bold", action="store_true", help="set the best means in bold")
    parser.add_argument("--decimals", type=int, default=1, help="of accuracies (default: 1)")
    options = parser.parse_args()
    frame = load(parser, options)
    paper = _read_paper(options.paper) if options.paper else None

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
    print("\n".join(_typeset(found, options.markdown, options.bold)), end="")
    left_out = len(frame.index.difference(frame.index[:0].append([t.runs for t in found])))
    if left_out:
        print(f"note: {left_out} other runs: choose them with --select", file=sys.stderr)


def command_line(description: str) -> argparse.ArgumentParser:
    """Options that plots and tables share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).with_name("results.csv"),
        metavar="CSV",
        help="what main.py wrote (default: results.csv beside this script)",
    )
    parser.add_argument("--dataset", nargs="+", default=[], help="only these data sets")
    parser.add_argument("--model", nargs="+", default=[], help="only these models")
    parser.add_argument(
        "--select",
        nargs="+",
        default=[],
        type=_condition,
        metavar="COLUMN=VALUE",
        help="only runs with these values, such as rounds=3000 aggregation=clear",
    )
    return parser


def load(parser: argparse.ArgumentParser, options: argparse.Namespace) -> pd.DataFrame:
    """Read the runs that the options select, in the order of display; exit if there are none.

    Args:
        parser: from `command_line`, to report a wrong choice.
        options: what it parsed.
    """
    needs = [*RUN, "status", "final_accuracy", "rounds_to_convergence"]
    frame = _read(options.results, needs)
    for name in ("dataset", "model"):
        held = tables.display_order(frame[name])
        for value in getattr(options, name):
            if value not in held:
                parser.error(
                    f"argument --{name}: no runs of {value}: choose from {', '.join(held)}"
                )
    chosen = {"dataset": options.dataset, "model": options.model}
    for name, values in chosen.items():
        frame = frame[frame[name].isin(values)] if values else frame
    for name, value in options.select:
        if name not in frame:
            parser.error(f"argument --select: no column {name}: choose from {', '.join(RUN)}")
        frame = frame[results.matches(frame, {name: value})]
    if frame.empty:
        sys.exit(f"no such runs in {options.results}")
    order = {name: tables.display_order(frame[name]) for name in ("dataset", "model", "algorithm")}
    return summary.in_order(frame.drop_duplicates(RUN, keep="last"), order)


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
        labels, order = _labelled(stats, rows, columns)
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
        labels, order = _labelled(stats, rows, columns)
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
        labels, order = _labelled(stats, rows, ["algorithm"])
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
    stats = summary.mean_and_std(view, by, value).assign(source="")
    if paper is None:
        return stats
    published = paper.merge(view[PAPER].drop_duplicates())
    published = published.assign(source=PUBLISHED, runs=0, diverged=0, missing=0)
    return pd.concat([stats, published[stats.columns]], ignore_index=True)


def _ours(stats):
    return stats[stats["source"] == ""]


def _labelled(stats, rows, columns):
    """Statistics with display names for keys, and the order of these names."""
    labels, order = stats.copy(), {}
    for name in [*rows, *columns]:
        numeric = pd.api.types.is_numeric_dtype(stats[name])
        keys = sorted(stats[name].unique()) if numeric else tables.display_order(stats[name])
        texts = {key: _text(name, key) for key in keys}
        labels[name] = stats[name].map(texts)
        order[name] = list(texts.values())
    labels[rows[-1]] += stats["source"]
    order[rows[-1]] = [text + source for text in order[rows[-1]] for source in ("", PUBLISHED)]
    return labels, order


def _text(name, key):
    if name == "alpha":
        return f"{ALPHA} = {key:g}"
    return tables.display_name(key, short=True) if isinstance(key, str) else str(key)


def _caption(what, view, stats, setting, rounds):
    identity = [name for name in RUN if name != "seed"]
    counts = view.groupby(identity, dropna=False).size()
    seeds = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else counts.min()
    spread = "mean (standard deviation) over " if stats["std"].notna().any() else ""
    sentences = [
        f"{what}, {spread}{_count(seeds, 'seed')}",
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
    partition = PARTITIONS.get(setting["partition"], setting["partition"])
    if pd.notna(setting.get("alpha")):
        partition += f" with {ALPHA} = {setting['alpha']:g}"
    phrases = [
        _count(setting["clients"], "client"),
        f"batch size {setting['batch_size']}",
        partition,
        f"{setting['variant']} variant",
    ]
    if "local_steps" in setting:
        phrases.append(f"{_count(setting['local_steps'], 'local step')} a round")
    if pd.notna(setting["overrides"]):
        phrases.append(setting["overrides"])
    return phrases


def _rounds(view):
    rounds = view.groupby("local_steps")["rounds"].first().sort_index()
    if rounds.nunique() == 1:
        return _count(rounds.iloc[0], "round")
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


def _count(number, noun):
    text = f"{number:,}" if not isinstance(number, str) else number
    return f"{text} {noun}{'' if number == 1 else 's'}"


def _typeset(found, markdown, bold):
    names = []
    for table in found:
        names.append(table.name)
        mask = table.best if bold else None
        if markdown:
            yield f"{table.caption}\n\n{tables.markdown_table(table.cells, mask)}"
            continue
        again = names.count(table.name)
        label = f"tab:performance-{table.name}" + (f"-{again}" if again > 1 else "")
        wide = table.cells.shape[1] > 3
        yield tables.latex_table(table.cells, table.caption, label, mask, wide)


def _read(path, needs):
    try:
        return results.read(path, needs)
    except results.ResultsError as error:
        sys.exit(str(error))


def _read_paper(path):
    frame = _read(path, [*PAPER, "metric", "mean", "std"])
    return frame[frame["metric"] == "final_accuracy"]


def _condition(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return name, value or None


if __name__ == "__main__":
    main()
