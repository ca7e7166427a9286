"""From runs to a table and its caption: statistics, published figures beside them, sentences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from fl.experiment import summary, tables
from fl.experiment.departures import PARTIAL
from fl.experiment.names import display_name

PUBLISHED = ", paper"  # behind the name of a row
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
PARTITIONS = {
    "lda": "LDA partition",
    "iid": "IID partition",
    "homogeneous": "all samples at every client",
    "shards": "partition into shards",
    "classes": "assigned classes",
}


class Metric(NamedTuple):
    """A column of a results file and of tables."""

    column: str
    span: str  # header over the columns of several metrics
    name: str
    scale: float = 1
    decimals: int = 3
    always: bool = False  # whether a table has it even where no run has a value
    missing: str = "none"  # word for a cell whose runs have no value


def statistics(
    view: pd.DataFrame,
    by: Sequence[str],
    column: str,
    paper: pd.DataFrame | None,
    keys: Sequence[str],
) -> pd.DataFrame:
    """Mean and deviation of our runs, and beside them what was published.

    Args:
        view: the runs; only what is published for one of them is taken.
        by: as for `summary.mean_and_std`.
        column: the metric.
        paper: from `read_paper`.
        keys: columns that `paper` and `view` have in common. Those of `by` are among them or follow
            from them in `view`.

    Returns:
        As `summary.mean_and_std`, with a further column `source`: empty for ours, `PUBLISHED` for
        others.
    """
    stats = summary.mean_and_std(view, by, column).assign(source="")
    if paper is None:
        return stats
    known = view[[*keys, *(name for name in by if name not in keys)]].drop_duplicates()
    # Where all cells are empty, one file may hold text and the other numbers.
    known = known.astype({key: paper[key].dtype for key in keys if known[key].isna().all()})
    published = paper[paper["metric"] == column].merge(known)
    published = published.assign(source=PUBLISHED, runs=0, diverged=0, missing=0)[stats.columns]
    return pd.concat([stats, published.astype(stats[list(by)].dtypes)], ignore_index=True)


def lay_out(
    view: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    metrics: Sequence[Metric],
    paper: pd.DataFrame | None,
    keys: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay statistics of runs out as a table of texts.

    Args:
        view: the runs.
        rows: one or two columns of `view`: group and row. What is published stands below ours.
        columns: columns of `view` for the headers. With none these are the metrics, under their
            spanning headers; with one and several metrics, it spans them.
        metrics: those without any value are left out, unless they are `always` there.
        paper: as for `statistics`.
        keys: as for `statistics`.

    Returns:
        The table as `tables.latex_table` takes it, and the statistics behind it with the names that
        it shows in place of keys, and the column `metric`.
    """
    parts = []
    for number, metric in enumerate(metrics):
        stats = statistics(view, [*rows, *columns], metric.column, paper, keys)
        if stats["mean"].notna().any() or metric.always:
            texts = tables.cell_texts(stats, metric.scale, metric.decimals, metric.missing)
            parts.append(stats.assign(number=number, metric=metric.column, text=texts))
    stats = pd.concat(parts, ignore_index=True)
    for name in [*rows, *columns]:
        names = {key: _text(name, key) for key in stats[name].sort_values().unique()}
        stats[name] = summary.ordered([names[key] for key in stats[name]], names.values())
    last = stats[rows[-1]]
    both = [name + source for name in last.cat.categories for source in ("", PUBLISHED)]
    stats[rows[-1]] = summary.ordered(last.astype(str) + stats["source"], both)
    if len(metrics) == 1:
        return tables.text_table(stats, rows, columns), stats
    cells = tables.text_table(stats, rows, [*columns, "number"])
    heads = [key if columns else (metrics[key].span, key) for key in cells.columns]
    heads = [(span, metrics[number].name) for span, number in heads]
    return cells.set_axis(pd.MultiIndex.from_tuples(heads), axis=1), stats


def caption(
    what: str,
    view: pd.DataFrame,
    run: Sequence[str],
    phrases: Sequence[str],
    notes: Iterable[str],
) -> str:
    """Say what a table shows, over how many seeds, and in which setting.

    Args:
        what: its subject.
        view: the runs.
        run: columns that say what a run is, `seed` among them.
        phrases: what the runs share, see `describe`.
        notes: further sentences without their points.
    """
    counts = view.groupby([name for name in run if name != "seed"], dropna=False).size()
    fewest, most = counts.min(), counts.max()
    seeds = count(f"{fewest} to {most}" if fewest < most else int(most), "seed")
    spread = "mean (standard deviation) over " if most > 1 else ""
    setting = ", ".join(phrases)
    sentences = [f"{what}, {spread}{seeds}", setting[0].upper() + setting[1:], *notes]
    return ". ".join(sentences) + "."


def describe(setting: Mapping, rounds: str) -> list[str]:
    """Say what the runs of a table share, in phrases.

    Args:
        setting: column to value, of the columns that all experiments have.
        rounds: how many rounds, in words.
    """
    phrases = [count(setting["clients"], "client")] if "clients" in setting else []
    if "batch_size" in setting:
        phrases.append(f"batch size {setting['batch_size']}")
    phrases += [
        PARTITIONS.get(setting["partition"], setting["partition"]),
        _variant(setting),
    ]
    if pd.notna(setting.get("alpha")):
        phrases[-2] += f" with {_text('alpha', setting['alpha'])}"
    if "local_steps" in setting:
        phrases.append(f"{count(setting['local_steps'], 'local step')} a round")
    phrases.append(rounds)
    return [*phrases, setting["overrides"]] if pd.notna(setting["overrides"]) else phrases


def notes(stats: pd.DataFrame, missing: str, published: str) -> Iterator[str]:
    """Explain the marks of a table, where it has them, in sentences without their points.

    Args:
        stats: from `lay_out`.
        missing: what a run without a value is.
        published: what the published runs were.
    """
    marked = stats[stats["mean"].notna()]  # a cell without any value says so in a word
    if marked["diverged"].any():
        yield "Each † stands for a run that diverged and is left out of the mean"
    if marked["missing"].any():
        yield f"Each ‡ stands for a run {missing}, left out of the mean"
    if (stats["source"] != "").any():
        yield f"Rows marked paper: as published, for {published}"


def task_name(setting: Mapping) -> str:
    """Name what clients learn: a setting's data set and model, and how many they are."""
    names = [display_name(setting[name], short=True) for name in ("dataset", "model")]
    return ", ".join([*names, count(setting["clients"], "client")])


def count(number: int | str, noun: str) -> str:
    """Write a number and its noun: 1 client, 3,000 clients."""
    text = f"{number:,}" if not isinstance(number, str) else number
    return f"{text} {noun}{'' if number == 1 else 's'}"


def _variant(setting):
    text = f"{setting['variant']} variant"
    if setting["variant"] == PARTIAL:
        return f"{text} (as published: {setting['departures'].replace(' ', ', ')})"
    return text


def _text(name, key):
    if name == "alpha":
        return f"{ALPHA} = {key:g}"
    return display_name(key, short=True) if isinstance(key, str) else str(key)
