"""Runs as data: what tells one run from another.

Each experiment describes its runs by one frozen dataclass `Run`. Its fields are the columns of the
results files that identify a run, in order. `Departures` share one column as text, `moments
last-batch`, and so do the `Overrides` of that experiment, options that change a run and are rarely
given: `pgd_step=0.01 client_rate=0.2`.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from fl.experiment.departures import Departures


@dataclass(frozen=True)
class Overrides:
    """Options without a column of their own; None stands for "not given".

    Each experiment derives its own, with a documented field for each.
    """

    @classmethod
    def of(cls, options: Any) -> Self:
        """Take them from what has attributes of the same names, such as a command line."""
        return cls(**{item.name: getattr(options, item.name) for item in fields(cls)})

    def given(self, *names: str) -> dict[str, Any]:
        """Those of some that were given, by name; of all without names."""
        chosen = names or [item.name for item in fields(self)]
        values = {name: getattr(self, name) for name in chosen}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        """What was given, as the column `overrides` has it; empty for nothing."""
        return " ".join(f"{name}={value}" for name, value in self.given().items())


def columns(kind: type) -> tuple[str, ...]:
    """Names of the columns that identify the runs of a kind.

    Args:
        kind: an experiment's `Run`.
    """
    return tuple(item.name for item in fields(kind))


def cells(run: Any) -> dict[str, Any]:
    """A run as a row's cells: column to value, None for an empty cell.

    Args:
        run: an instance of an experiment's `Run`.
    """
    values = {name: getattr(run, name) for name in columns(type(run))}
    return {
        name: (str(value) or None) if isinstance(value, Overrides | Departures) else value
        for name, value in values.items()
    }
