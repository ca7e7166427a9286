"""How long runs may take, by what runs like them took before."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from fl.experiment import results

# Columns of results files with the seconds of a run's parts, whichever an experiment has.
PARTS = ("wall_s", "train_s", "attack_s", "certify_s")
# What makes runs alike, the first of these that were seen before.
ALIKE = (
    ("dataset", "model", "algorithm", "attack", "aggregation"),
    ("dataset", "model"),
    ("model",),
)


def about(held: pd.DataFrame, runs: Iterable[Any], backend: str) -> str:
    """Say about how long runs take, one after the other.

    Runs that share their training take less than this: each row has the whole of it.

    Args:
        held: the results so far, with the column `backend`. What runs took on another one says
            nothing of this: with convolutions they take minutes on a GPU, and hours on a CPU.
        runs: instances of an experiment's `Run`.
        backend: JAX's that they are to run on, as the column of that name has it.
    """
    held = held[held["backend"] == backend]
    known = [name for name in PARTS if name in held]
    seconds = held[known].astype(float).sum(axis=1) if known else pd.Series(dtype=float)
    taken = [_mean_of_alike(held, seconds, run) for run in runs]
    total = sum(each for each in taken if each is not None)
    unknown = taken.count(None)
    if unknown == len(taken):
        return f"for how long is not known: there are no such runs on a {backend} yet"
    text = f"about {_duration(total)} at most"
    if unknown:
        text += f", and {unknown} of them nobody knows how long on a {backend}"
    return text


def _mean_of_alike(held, seconds, run):
    for names in ALIKE:
        cell = {name: getattr(run, name) for name in names if hasattr(run, name)}
        alike = seconds[results.matches(held, cell)]
        if len(alike):
            return alike.mean()
    return None


def _duration(seconds):
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
