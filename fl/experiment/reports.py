"""What the programs that show results share: options, choice of runs, printing."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fl.experiment import results, summary, tables
from fl.experiment.names import display_order

# Beside a results file: runs with some departures of the published code, or guesses at the paper.
ABLATIONS = "ablations.csv"


class Table(NamedTuple):
    """A table ready to print."""

    name: str  # for the LaTeX label
    caption: str
    cells: pd.DataFrame  # text
    runs: pd.Index  # that it shows
    bold: pd.DataFrame | None = None  # mask of the cells to set in bold


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
    parser.set_defaults(compare=False, ablate=False)  # where there is no such option
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


def add_choices(parser: argparse.ArgumentParser, name: str, titles: Mapping[str, str]) -> None:
    """Add an option for each of some keys, which all fill one list.

    Args:
        parser: from `command_line`.
        name: of the list among the options; empty where none is given.
        titles: key, as in the results, to what `--key` shows.
    """
    for key, title in titles.items():
        parser.add_argument(
            f"--{key.replace('_', '-')}",
            action="append_const",
            dest=name,
            const=key,
            default=[],
            help=f"only {title}",
        )


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all tables share."""
    parser.add_argument("--paper", type=Path, metavar="CSV", help="published figures to set beside")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="instead, each of the paper's figures with a verdict, runs of a file "
        f"{ABLATIONS} beside the results included",
    )
    parser.add_argument(
        "--ablate",
        action="store_true",
        help="instead, what each departure of the published code makes, likewise",
    )
    parser.add_argument("--markdown", action="store_true", help="tables for GitHub, not for LaTeX")


def load(
    parser: argparse.ArgumentParser, run: Sequence[str], needs: Iterable[str]
) -> tuple[argparse.Namespace, pd.DataFrame]:
    """Parse the command line and read the runs that it selects; exit if there are none.

    Args:
        parser: from `command_line`.
        run: columns that say what a run is; one that is there twice counts once, the later one.
        needs: other columns that the caller cannot do without.

    Returns:
        The options; and the runs, their data sets, models and algorithms in the order of display.
    """
    options = parser.parse_args()
    frame = _read_all(options, [*run, *needs])
    for name in ("dataset", "model", "algorithm"):
        held = display_order(frame[name])
        frame[name] = summary.ordered(frame[name], held)
        chosen = getattr(options, name, [])
        for value in chosen:
            if value not in held:
                parser.error(
                    f"argument --{name}: no runs of {value}: choose from {', '.join(held)}"
                )
        frame = frame[frame[name].isin(chosen or held)]
    for name, value in options.select:
        if name not in frame:
            parser.error(f"argument --select: no column {name}: choose from {', '.join(run)}")
        frame = frame[results.matches(frame, {name: value})]
    if frame.empty:
        sys.exit(f"no such runs in {options.results}")
    frame = frame.drop_duplicates(list(run), keep="last")
    return options, frame.sort_values(["dataset", "model", "algorithm"], kind="stable")


def _read_all(options, needs):
    """The results, and the ablations beside them where the options ask for what these explain."""
    found = [read(options.results, needs)]
    beside = options.results.with_name(ABLATIONS)
    if (options.compare or options.ablate) and beside.exists():
        found.append(read(beside, needs))
    return pd.concat(found, ignore_index=True)


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
    if path is None:
        return None
    if not path.exists():
        sys.exit(f"--paper: there is no {path}")
    return read(path, [*keys, "metric", "mean", "std"])


def read_beside(
    path: Path, frame: pd.DataFrame, run: Sequence[str], needs: Sequence[str]
) -> pd.DataFrame:
    """Read what another file says of runs, each row once; say so if there is nothing.

    Args:
        path: of the file.
        frame: the runs.
        run: columns that say what a run is.
        needs: further columns of the file; the first one tells the rows of a run apart.

    Returns:
        The rows with their runs' `status`, in the order of `frame`.
    """
    try:
        found = results.read(path, [*run, *needs])
    except results.ResultsError as error:
        print(f"left out: {error}", file=sys.stderr)
        return pd.DataFrame(columns=[*run, *needs, "status"])
    # A run that was killed before it was recorded, and resumed, is there twice.
    found = found.drop_duplicates([*run, needs[0]], keep="last")
    # Where all cells are empty, one file may hold text and the other numbers.
    keys = [name for name in run if frame[name].notna().any() or found[name].notna().any()]
    joined = frame[[*keys, "status"]].merge(found, on=keys)
    return joined.astype({name: frame[name].dtype for name in keys})


def show(
    found: Sequence[Table], frame: pd.DataFrame, prefix: str, options: argparse.Namespace, hint: str
) -> None:
    """Print tables, and how many runs are in none; exit if there are no tables.

    Args:
        found: tables.
        frame: the runs that were selected.
        prefix: of the LaTeX labels.
        options: what `load` returned.
        hint: how to select other runs.
    """
    if not found:
        sys.exit(f"no such runs: {hint}")
    print("\n".join(_typeset(found, prefix, options)), end="")
    shown = set().union(*(table.runs for table in found))
    if left_out := len(set(frame.index) - shown):
        print(f"note: {left_out} other runs: {hint}", file=sys.stderr)


def _typeset(found, prefix, options):
    names = []
    for table in found:
        names.append(table.name)
        if options.markdown:
            yield f"{table.caption}\n\n{tables.markdown_table(table.cells, table.bold)}"
            continue
        again = names.count(table.name)
        label = f"tab:{prefix}-{table.name}" + (f"-{again}" if again > 1 else "")
        wide = table.cells.shape[1] > 3
        yield tables.latex_table(table.cells, table.caption, label, table.bold, wide)


def _condition(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=VALUE")
    return name, value or None
