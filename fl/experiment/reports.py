"""What the programs that show results share: options, choice of runs, labels, captions."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fl.experiment import results, summary, tables

PUBLISHED = ", paper"  # behind the name of a row
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
    runs: pd.Index  # that it shows
    best: pd.DataFrame | None = None  # mask of the cells with the best means


class Metric(NamedTuple):
    """A column of a results file and of tables."""

    column: str
    span: str  # header over the columns of several metrics
    name: str
    scale: float = 1
    decimals: int = 3
    always: bool = False  # whether a table has it even where no run has a value


def command_line(description: str, folder: Path, example: str) -> argparse.ArgumentParser:
    """Options that plots and tables share.

    Args:
        description: of the program.
        folder: where its results.csv is by default.
        example: of conditions for `--select`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=folder / "results.csv",
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
        help=f"only runs with these values, such as {example}",
    )
    return parser


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all tables share."""
    parser.add_argument("--paper", type=Path, metavar="CSV", help="published figures to set beside")
    parser.add_argument("--markdown", action="store_true", help="tables for GitHub, not for LaTeX")


def load(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    run: Sequence[str],
    needs: Iterable[str],
) -> pd.DataFrame:
    """Read the runs that the options select, in the order of display; exit if there are none.

    Args:
        parser: from `command_line`, to report a wrong choice.
        options: what it parsed.
        run: columns that say what a run is; one that is there twice counts once, the later one.
        needs: other columns that the caller cannot do without.
    """
    frame = read(options.results, [*run, *needs])
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
            parser.error(f"argument --select: no column {name}: choose from {', '.join(run)}")
        frame = frame[results.matches(frame, {name: value})]
    if frame.empty:
        sys.exit(f"no such runs in {options.results}")
    order = {name: tables.display_order(frame[name]) for name in ("dataset", "model", "algorithm")}
    return summary.in_order(frame.drop_duplicates(list(run), keep="last"), order)


def read(path: Path, needs: Sequence[str]) -> pd.DataFrame:
    """Read a results file; exit with a sentence if it cannot be used (see `results.read`)."""
    try:
        return results.read(path, needs)
    except results.ResultsError as error:
        sys.exit(str(error))


def read_paper(path: Path | None, keys: Sequence[str]) -> pd.DataFrame | None:
    """Read published figures, of the columns metric, mean and std; None without a path.

    Args:
        path: of `--paper`.
        keys: the columns that say what was run.
    """
    return read(path, [*keys, "metric", "mean", "std"]) if path else None


def with_published(
    stats: pd.DataFrame, paper: pd.DataFrame | None, view: pd.DataFrame, keys: Sequence[str]
) -> pd.DataFrame:
    """Set published figures beside statistics of our runs.

    Args:
        stats: from `summary.mean_and_std`.
        paper: published means and deviations of the same quantity, or None.
        view: the runs; only what is published for one of them is taken.
        keys: columns that `paper` and `view` have in common. Those by which `stats` are grouped
            are among them or follow from them in `view`.

    Returns:
        The statistics with a further column `source`: empty for ours, `PUBLISHED` for others.
    """
    stats = stats.assign(source="")
    if paper is None:
        return stats
    # Where all cells are empty, one file may hold text and the other numbers.
    carried = [name for name in stats if name in view and name not in keys]
    known = view[[*keys, *carried]].drop_duplicates()
    known = known.astype({key: paper[key].dtype for key in keys if known[key].isna().all()})
    published = paper.merge(known).assign(source=PUBLISHED, runs=0, diverged=0, missing=0)
    both = [stats, published[stats.columns]]
    return pd.concat([part for part in both if len(part)], ignore_index=True)


def metric_cells(
    view: pd.DataFrame,
    rows: Sequence[str],
    metrics: Iterable[Metric],
    paper: pd.DataFrame | None,
    keys: Sequence[str],
) -> tuple[pd.DataFrame, dict[Metric, pd.DataFrame]]:
    """Lay out a column for each metric.

    Args:
        view: the runs.
        rows: columns of names: group and row.
        metrics: those without any value are left out, unless they are `always` there.
        paper: published figures, with the columns metric, mean and std, or None.
        keys: as for `with_published`.

    Returns:
        The cells as text, and the statistics behind them by metric.
    """
    shown = {}
    for metric in metrics:
        stats = summary.mean_and_std(view, rows, metric.column)
        published = None if paper is None else paper[paper["metric"] == metric.column]
        stats = with_published(stats, published, view, keys)
        if stats["mean"].notna().any() or metric.always:
            shown[metric] = stats
    # Not every figure was published for every run.
    labels, order = labelled(pd.concat(shown.values()), rows, [], lambda _, key: key)
    index = pd.MultiIndex.from_frame(summary.in_order(labels[[*rows]].drop_duplicates(), order))
    parts = []
    for metric, stats in shown.items():
        labels, _ = labelled(stats, rows, [], lambda _, key: key)
        labels = labels.assign(span=metric.span, metric=metric.name)
        parts.append(
            tables.text_table(
                labels, rows, ["span", "metric"], metric.scale, metric.decimals, "none", order
            )
        )
    cells = pd.concat([part.reindex(index) for part in parts], axis=1).fillna(tables.DASH)
    return cells, shown


def labelled(
    stats: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    text: Callable[[str, object], str],
) -> tuple[pd.DataFrame, dict[str, list]]:
    """Put names for display in place of keys.

    Args:
        stats: from `with_published`; the source goes behind the names of the rows.
        rows: one or two columns of `stats`, as for `tables.text_table`.
        columns: likewise.
        text: (column, key) -> name.

    Returns:
        The statistics with names, and the order of the names as `tables.text_table` takes it.
    """
    labels, order = stats.copy(), {}
    for name in [*rows, *columns]:
        numeric = pd.api.types.is_numeric_dtype(stats[name])
        keys = sorted(stats[name].unique()) if numeric else tables.display_order(stats[name])
        texts = {key: text(name, key) for key in keys}
        labels[name] = stats[name].map(texts)
        order[name] = list(texts.values())
    labels[rows[-1]] += stats["source"]
    order[rows[-1]] = [name + source for name in order[rows[-1]] for source in ("", PUBLISHED)]
    return labels, order


def describe_partition(setting: dict) -> str:
    """Name the partition of a setting with `partition` and perhaps `alpha`."""
    text = PARTITIONS.get(setting["partition"], setting["partition"])
    if pd.notna(setting.get("alpha")):
        text += f" with {ALPHA} = {setting['alpha']:g}"
    return text


def describe_seeds(view: pd.DataFrame, run: Sequence[str]) -> str:
    """Say over how many seeds the runs of a table are.

    Args:
        view: the runs.
        run: columns that say what a run is, `seed` among them.
    """
    identity = [name for name in run if name != "seed"]
    counts = view.groupby(identity, dropna=False).size()
    seeds = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else counts.min()
    return count(seeds, "seed")


def count(number: int | str, noun: str) -> str:
    """Write a number and its noun: 1 client, 3,000 clients."""
    text = f"{number:,}" if not isinstance(number, str) else number
    return f"{text} {noun}{'' if number == 1 else 's'}"


def typeset(found: Iterable[Table], prefix: str, markdown: bool, bold: bool) -> Iterator[str]:
    """Yield the text of each table.

    Args:
        found: tables.
        prefix: of the LaTeX labels, which are distinct.
        markdown: for GitHub instead of LaTeX.
        bold: whether to set the best means in bold.
    """
    names = []
    for table in found:
        names.append(table.name)
        mask = table.best if bold else None
        if markdown:
            yield f"{table.caption}\n\n{tables.markdown_table(table.cells, mask)}"
            continue
        again = names.count(table.name)
        label = f"tab:{prefix}-{table.name}" + (f"-{again}" if again > 1 else "")
        wide = table.cells.shape[1] > 3
        yield tables.latex_table(table.cells, table.caption, label, mask, wide)


def count_left_out(frame: pd.DataFrame, found: Iterable[Table]) -> int:
    """Count the runs that no table shows."""
    return len(frame.index.difference(frame.index[:0].append([table.runs for table in found])))


def _condition(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return name, value or None
