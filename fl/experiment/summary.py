"""Statistics over runs that differ in their seed alone."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd


def groups(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield each combination of values of the columns `by` (NaN is one) with its rows."""
    for values, rows in frame.groupby(list(by), dropna=False, sort=False):
        yield dict(zip(by, values, strict=True)), rows


def ordered(values: Iterable[str], first: Iterable[str] = ()) -> pd.Categorical:
    """Texts that sort in an order of their own.

    Args:
        values: texts.
        first: how they sort; others go last, in the order in which they appear.
    """
    present = list(values)
    known = [value for value in dict.fromkeys(first) if value in set(present)]
    return pd.Categorical(present, dict.fromkeys([*known, *present]), ordered=True)


def mean_and_std(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean and sample standard deviation (n - 1) of a column over the runs of each group.

    Runs with the status `diverged` are counted, and kept out of mean and deviation.

    Args:
        frame: a row for each run, `status` among its columns or not.
        by: columns that name a group, in their sorted order (see `ordered`); NaN in them is a
            value like others, the last one.
        value: the column of numbers.

    Returns:
        A frame with the columns `by`, mean, std (NaN for one run), runs (that the mean is over),
        diverged (runs) and missing (other runs without a value).
    """
    by = list(by)
    ok = pd.Series(True, index=frame.index)
    if "status" in frame:
        ok = frame["status"] != "diverged"
    data = frame[by].assign(
        mean=frame[value].where(ok),
        diverged=~ok,
        missing=ok & frame[value].isna(),
    )
    return data.groupby(by, dropna=False, as_index=False).agg(
        std=("mean", "std"),
        runs=("mean", "count"),
        mean=("mean", "mean"),
        diverged=("diverged", "sum"),
        missing=("missing", "sum"),
    )[[*by, "mean", "std", "runs", "diverged", "missing"]]
