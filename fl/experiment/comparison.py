"""The paper's figures beside ours, as published and corrected, and what is to be said of each."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import pandas as pd

from fl.experiment import reports, results, summary
from fl.experiment.departures import CORRECTED, PUBLISHED
from fl.experiment.layout import Metric, count, task_name
from fl.experiment.reports import Table

# Figures agree within so many of the paper's deviation and ours together.
MOST_APART = 2.0
AGREES, EXPLAINED, UNEXPLAINED, NOT_RUN = "agrees", "explained", "unexplained", "not run"
PLAINLY = "as published"
TITLES = {PUBLISHED: "As published", CORRECTED: "Corrected"}
KINDS = tuple(TITLES)
TASK = ["dataset", "model"]


class Compared(NamedTuple):
    """A metric that the paper reports.

    Attributes:
        metric: how tables show it.
        floor: what the two deviations together count as at least, in the units of the column: by it
            figures without a deviation can be compared too.
        unmoved_by: ids of departures and names of overrides that cannot move it. A run with none
            but these may differ from the default by its seed or its machine: no explanation.
    """

    metric: Metric
    floor: float
    unmoved_by: frozenset[str] = frozenset()


class Paper(NamedTuple):
    """What an experiment's figures are compared with.

    Attributes:
        path: of the figures, with the columns `keys`, metric, mean and std.
        keys: columns that say what was run, `TASK` first.
        metrics: by column.
        name: a figure's keys -> its name within its task.
        same: runs -> mask of those in the paper's setting, whatever their departures and overrides.
        acting: ids of the departures that act in the experiment.
        rounds: of a run in the paper. Where a data set and model has no such run, those nearest to
            it stand in, and it is said. None where `same` looks at rounds.
    """

    path: Path
    keys: list[str]
    metrics: Mapping[str, Compared]
    name: Callable[[Mapping], str]
    same: Callable[[pd.DataFrame], pd.Series]
    acting: tuple[str, ...]
    rounds: int | None = None


def compare(frame: pd.DataFrame, paper: Paper) -> pd.DataFrame:
    """Set every figure of the paper beside ours.

    Args:
        frame: runs.
        paper: what to compare with.

    Returns:
        A row a figure of the data sets and models that the runs have: the keys; metric; name; mean
        and std of the paper; of the `KINDS` of runs mean, std, runs and how far apart they are, in
        units of both deviations together, as `corrected_mean` and so on; verdict, one of `AGREES`,
        `EXPLAINED`, `UNEXPLAINED` and `NOT_RUN`; by, what explains it; and stand_in, the rounds of
        runs that stand in for the paper's, else missing.
    """
    published = reports.read_paper(paper.path, paper.keys)
    tasks = frame[TASK].drop_duplicates().astype(str)
    published = published.merge(tasks, on=TASK)
    if published.empty:
        sys.exit(f"nothing to compare: {paper.path} has no figure of these data sets and models")
    frame, stand_in = _nearest(comparable(frame, paper), paper)
    published = published.merge(stand_in, on=TASK, how="left")
    parts = []
    for column, (_, floor, _) in paper.metrics.items():
        figures = published[published["metric"] == column].reset_index(drop=True)
        for kind in KINDS:
            runs = frame[(frame["variant"] == kind) & frame["overrides"].isna()]
            figures = _beside(figures, runs, column, floor, paper.keys, f"{kind}_")
        others = frame[~frame["variant"].isin(KINDS) | frame["overrides"].notna()]
        explanations = _explanations(figures, others, column, paper)
        rows = figures.to_dict("records")
        found = [_verdict(*each) for each in zip(rows, explanations, strict=True)]
        parts.append(figures.assign(verdict=[v for v, _ in found], by=[by for _, by in found]))
    every = pd.concat(parts, ignore_index=True)
    return every.assign(name=[paper.name(row) for row in every.to_dict("records")])


def comparable(frame: pd.DataFrame, paper: Paper) -> pd.DataFrame:
    """Those of some runs that are in the paper's setting and came to an end."""
    return frame[paper.same(frame) & (frame["status"] != "diverged")]


def name_of_task(task: Mapping, runs: pd.DataFrame) -> str:
    """A data set and model, and the clients of its runs, for a caption."""
    return task_name({**task, "clients": int(runs["clients"].iloc[0])})


def _nearest(frame, paper):
    """Of each task the runs of the paper's number of rounds, or nearest to it, and which tasks."""
    if paper.rounds is None or frame.empty:
        return frame, pd.DataFrame(columns=[*TASK, "stand_in"])
    distance = (frame["rounds"] - paper.rounds).abs()
    frame = frame[distance == distance.groupby([frame[key] for key in TASK]).transform("min")]
    rounds = frame.groupby(TASK, as_index=False, observed=True)["rounds"].max()
    rounds = rounds[rounds["rounds"] != paper.rounds].rename(columns={"rounds": "stand_in"})
    return frame, rounds.astype(dict.fromkeys(TASK, str))


def show(frame: pd.DataFrame, paper: Paper, prefix: str, options: argparse.Namespace) -> None:
    """Print a table for each metric of each task, and the tally of all on the standard error.

    Args:
        frame: runs.
        paper: what to compare with, unless the options name other figures.
        prefix: of the LaTeX labels.
        options: what `reports.load` returned.
    """
    every = compare(frame, paper._replace(path=options.paper or paper.path))
    reports.show(list(_tables(every, paper, frame)), frame, prefix, options, "all are compared")
    print(tally(every), file=sys.stderr)


def _tables(every, paper, frame):
    for task, of_task in summary.groups(every, TASK):
        same = frame[results.matches(frame, task)]
        named = name_of_task(task, same)
        for column, figures in of_task.groupby("metric", sort=False):
            metric = paper.metrics[column].metric
            notes = dict(zip(ascii_lowercase, filter(None, figures["by"].unique()), strict=False))
            explained = "".join(f" {letter}: {by}." for letter, by in notes.items())
            yield Table(
                name="-".join(["compare", *task.values(), column.replace("_", "-")]),
                caption=f"{named}: {metric.name}; mean (standard deviation) of the paper and of n "
                f"runs here{_stand_in(figures, paper)}, and how far apart they are in units of "
                "both deviations together. " + tally(figures) + explained,
                cells=_cells(figures, metric, notes),
                runs=same.index,
            )


def _stand_in(figures, paper):
    rounds = figures["stand_in"].iloc[0]
    return "" if pd.isna(rounds) else f" of {rounds:g} rounds (in the paper {paper.rounds})"


def tally(every: pd.DataFrame) -> str:
    """Say how many figures agree, are explained, and so on, in a sentence."""
    numbers = every["verdict"].value_counts()
    words = {AGREES: "agree", **{name: name for name in (EXPLAINED, UNEXPLAINED, NOT_RUN)}}
    found = [f"{numbers[verdict]} {word}" for verdict, word in words.items() if verdict in numbers]
    return f"Of {count(len(every), 'figure')}, {', '.join(found)}."


def _beside(figures, runs, column, floor, keys, prefix):
    """Put statistics of runs beside figures, in columns that begin with a prefix."""
    stats = summary.mean_and_std(runs, keys, column)[[*keys, "mean", "std", "runs"]]
    stats = stats.rename(columns={name: prefix + name for name in ("mean", "std", "runs")})
    # Categories and empty columns merge with neither texts nor numbers.
    stats = stats.astype({key: figures[key].dtype for key in keys})
    joined = figures.merge(stats, on=list(keys), how="left")
    deviation = np.hypot(joined["std"].fillna(0), joined[prefix + "std"].fillna(0))
    apart = (joined[prefix + "mean"] - joined["mean"]) / deviation.clip(lower=floor)
    return joined.assign(**{prefix + "apart": apart})


def _explanations(figures, runs, column, paper) -> list[dict[str, float]]:
    """For each figure, what other runs did that may move it -> how far apart they are."""
    _, floor, unmoved_by = paper.metrics[column]
    found = [{} for _ in range(len(figures))]
    plain = figures[[*paper.keys, "metric", "mean", "std"]]
    for how, same in summary.groups(runs, ["departures", "overrides"]):
        if unmoved_by.issuperset(_names(how)):
            continue
        apart = _beside(plain, same, column, floor, paper.keys, "its_")["its_apart"]
        for at, value in apart.dropna().items():
            found[at][_said(how, paper.acting)] = value
    return found


def _names(how):
    """Ids of the departures of runs, and names of their overrides."""
    return [word.partition("=")[0] for text in how.values() for word in _words(text)]


def _words(text):
    """The words of a cell; none of an empty one."""
    return [] if pd.isna(text) else text.split()


def _said(how, acting):
    """What runs do that are neither of `KINDS`: their departures, and what else was given."""
    given = _words(how["departures"])
    left = [name for name in acting if name not in given]
    said = ", ".join(given)
    if given and len(left) < len(given):
        said = f"{PLAINLY} but {', '.join(left)}" if left else PLAINLY
    return ", ".join(filter(None, [said, " ".join(_words(how["overrides"]))]))


def _verdict(row, explanations):
    tried = {**explanations, PLAINLY: row[f"{PUBLISHED}_apart"]}
    fitting = [by for by, apart in tried.items() if abs(apart) <= MOST_APART]
    if abs(row[f"{CORRECTED}_apart"]) <= MOST_APART:
        return AGREES, ""
    if fitting:
        return EXPLAINED, min(fitting, key=_simplicity)
    ran = explanations or any(pd.notna(row[f"{kind}_mean"]) for kind in KINDS)
    return (UNEXPLAINED if ran else NOT_RUN), ""


def _simplicity(by):
    """What is believed first: known departures, one, all, all but some; and a guess after them."""
    return "=" in by, by.startswith(PLAINLY), by != PLAINLY, len(by)


def _cells(figures, metric, notes):
    """The texts of a table; notes are what explains figures, by letter."""
    letters = {by: letter for letter, by in notes.items()}
    columns = {("Paper", "Mean"): _texts(figures, "", metric)}
    for kind, title in TITLES.items():
        columns[title, "Mean"] = _texts(figures, f"{kind}_", metric)
        columns[title, "n"] = [f"{runs:g}" if runs > 0 else "" for runs in figures[f"{kind}_runs"]]
        apart = figures[f"{kind}_apart"]
        columns[title, "Apart"] = ["" if pd.isna(each) else f"{each:+.1f}" for each in apart]
    columns["Here", "Verdict"] = [
        f"{verdict} ({letters[by]})" if by else verdict
        for verdict, by in zip(figures["verdict"], figures["by"], strict=True)
    ]
    return pd.DataFrame(columns, index=pd.Index(figures["name"], name="figure"))


def _texts(figures, prefix, metric):
    form = f".{metric.decimals}f"
    for_each = zip(figures[f"{prefix}mean"], figures[f"{prefix}std"], strict=True)
    return [
        ""
        if pd.isna(mean)
        else f"{metric.scale * mean:{form}}"
        + ("" if pd.isna(std) else f" ({metric.scale * std:{form}})")
        for mean, std in for_each
    ]
