"""Statistics over runs that differ in their seed alone."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd


def groups(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield each combination of values of the columns `by` (NaN is one) with its rows."""
    for values, rows in frame.groupby(list(by), dropna=False, sort=False):
        yield dict(zip(by, values, strict=True)), rows


def mean_and_std(
    frame: pd.DataFrame,
    by: Sequence[str],
    value: str,
    order: Mapping[str, Sequence] | None = None,
) -> pd.DataFrame:
    """Mean and sample standard deviation (n - 1) of a column over the runs of each group.

    Runs with the status `diverged` are counted, and kept out of mean and deviation.

    Args:
        frame: a row for each run, `status` among its columns or not.
        by: columns that name a group; NaN in them is a value like others.
        value: the column of numbers.
        order: as for `in_order`; without it, groups come in the order of their first rows.

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
    stats = data.groupby(by, dropna=False, sort=False, as_index=False).agg(
        std=("mean", "std"),
        runs=("mean", "count"),
        mean=("mean", "mean"),
        diverged=("diverged", "sum"),
        missing=("missing", "sum"),
    )
    return in_order(stats[[*by, "mean", "std", "runs", "diverged", "missing"]], order or {})


def in_order(frame: pd.DataFrame, order: Mapping[str, Sequence]) -> pd.DataFrame:
    """Sort rows by the columns of `order`, the first one first; unlisted values go last.

    Args:
        frame: rows; among equals they keep their order. The index is renumbered.
        order: column to its values in the order wanted; absent columns are passed over.
    """
    for name in reversed([name for name in order if name in frame]):
        rank = {key: number for number, key in enumerate(order[name])}
        frame = frame.sort_values(name, key=lambda keys, rank=rank: keys.map(rank), kind="stable")
    return frame.reset_index(drop=True)
