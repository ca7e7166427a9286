"""What each departure of the published code makes by itself, and what its absence makes there."""

import argparse
from collections.abc import Iterator, Sequence

import pandas as pd

from fl.experiment import reports, results, summary
from fl.experiment.comparison import TASK, Paper, comparable, name_of_task
from fl.experiment.departures import PART_OF
from fl.experiment.layout import Metric, count
from fl.experiment.reports import Table

ALONE, AMONG_ALL = "Alone", "Among all"


def show(
    frame: pd.DataFrame,
    paper: Paper,
    prefix: str,
    options: argparse.Namespace,
    further: Sequence[Metric] = (),
) -> None:
    """Print a table for each thing that was run with and without some departure.

    Args:
        frame: runs.
        paper: whose setting runs have, and whose metrics are shown.
        prefix: of the LaTeX labels.
        options: what `reports.load` returned.
        further: metrics that the paper does not report.
    """
    metrics = [*(each.metric for each in paper.metrics.values()), *further]
    found = list(_tables(frame, paper, metrics))
    reports.show(found, frame, prefix, options, "give main.py --as-published=ID, and all but it")


def effects(frame: pd.DataFrame, paper: Paper, columns: Sequence[str]) -> pd.DataFrame:
    """Differences that departures make, by pairs of runs of a seed that differ in one.

    Args:
        frame: runs.
        paper: whose setting runs have.
        columns: what to compare.

    Returns:
        A row a departure, thing run and kind: the keys of `paper`; departure; kind, `ALONE` for a
        run with it minus the default, `AMONG_ALL` for one as published minus all but it; of each
        column the mean difference over seeds, missing where a run has no value; and seeds.
    """
    frame = comparable(frame[frame["overrides"].isna()], paper)
    given = frame["departures"].map(_ids)
    runs = {done: frame[given == done] for done in given.unique()}
    found = []
    for departure in paper.acting:
        for kind, (first, second) in _pairs(departure, paper.acting).items():
            if first in runs and second in runs:
                rows = _differences(runs[first], runs[second], paper.keys, list(columns))
                found.append(rows.assign(departure=departure, kind=kind))
    if not found:
        return pd.DataFrame(columns=[*paper.keys, "departure", "kind", *columns, "seeds"])
    return pd.concat(found, ignore_index=True)


def _ids(text):
    return frozenset() if pd.isna(text) else frozenset(text.split())


def _pairs(departure, acting):
    """By kind what the two runs have; a part comes with its whole, and leaves with it."""
    every, own = frozenset(acting), frozenset([departure])
    whole = frozenset(of for part, of in PART_OF.items() if part == departure)
    parts = frozenset(part for part, of in PART_OF.items() if of == departure)
    return {ALONE: (own | whole, whole), AMONG_ALL: (every, every - own - parts)}


def _differences(first, second, keys, columns):
    by = [*keys, "seed"]
    first, second = (
        runs.drop_duplicates(by, keep="last")[[*by, *columns]].astype(dict.fromkeys(keys, object))
        for runs in (first, second)
    )
    pairs = first.merge(second, on=by, suffixes=("", " without"))
    for column in columns:
        pairs[column] = pd.to_numeric(pairs[column] - pairs[f"{column} without"])
    means = pairs.groupby(keys, dropna=False, sort=False)[columns].mean()
    seeds = pairs.groupby(keys, dropna=False, sort=False)["seed"].nunique()
    return means.assign(seeds=seeds).reset_index()


def _tables(frame, paper, metrics) -> Iterator[Table]:
    every = effects(frame, paper, [metric.column for metric in metrics])
    for setting, view in summary.groups(every, paper.keys):
        task = {key: setting[key] for key in TASK}
        runs = frame[results.matches(frame, setting)]
        named = name_of_task(task, runs)
        name = paper.name(setting)
        seeds = sorted(view["seeds"].unique())
        yield Table(
            name=f"ablation-{'-'.join(task.values())}",
            caption=f"{named}: {name}: what departures of the published code make, each "
            f"{ALONE.lower()} (with it minus the default) and {AMONG_ALL.lower()} (as published "
            f"minus all but it); means over {' or '.join(count(n, 'seed') for n in seeds)}.",
            cells=_cells(view, metrics),
            runs=runs.index,
        )


def _cells(view, metrics):
    """The texts of a table, of the metrics in which anything differs."""
    ids = list(view["departure"].unique())
    columns = {}
    for metric in metrics:
        if not view[metric.column].fillna(0).any():
            continue
        for kind in (ALONE, AMONG_ALL):
            of_kind = view[view["kind"] == kind].set_index("departure")[metric.column]
            columns[metric.name, kind] = [_text(of_kind.get(name), metric) for name in ids]
    return pd.DataFrame(columns, index=pd.Index(ids, name="departure"))


def _text(value, metric):
    return "" if pd.isna(value) else f"{metric.scale * value:+.{metric.decimals}f}"
