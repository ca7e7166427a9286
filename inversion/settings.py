"""What the runs in a figure or a table share, and how it is called."""

from collections.abc import Mapping

import pandas as pd
from attacks import ATTACKS

from fl.experiment import layout, summary
from fl.experiment.layout import count

DELTA, EPSILON = "\N{GREEK SMALL LETTER DELTA}", "\N{GREEK SMALL LETTER EPSILON}"
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
# The same for all runs in a table of one attack, and in one of all attacks.
COMMON = [
    *("rounds", "batch_size", "alpha", "partition", "attack_round"),
    *("variant", "departures", "overrides"),
]
SETTING = ["attack", "restarts", *COMMON]
# Clients and the accuracy at which training stops go with data set and model.
TASK = ["dataset", "model", "clients", "converge"]


def is_private(frame: pd.DataFrame) -> pd.Series:
    """Mask of the runs with differential privacy."""
    return frame["algorithm"].str.startswith("dp_")


def attack_name(setting: Mapping) -> str:
    """Name an attack, and how often it restarts."""
    return _title(setting["attack"]) + _restarts(setting)


def the_attack(setting: Mapping) -> str:
    """Name an attack, and how often it restarts, within a sentence."""
    name = _title(setting["attack"])
    name = name if name[1:] != name[1:].lower() else name.lower()  # iDLG and CPL stay
    return f"{name} attack{_restarts(setting)}"


def tasks(frame: pd.DataFrame) -> pd.Categorical:
    """Names of tasks, in the order of data sets and models."""
    keys = frame[TASK].drop_duplicates().sort_values(TASK, na_position="first")
    first = [task(key) for key in keys.to_dict("records")]
    return summary.ordered([task(row) for row in frame[TASK].to_dict("records")], first)


def task(setting: Mapping) -> str:
    """Name what clients learn, and when they stop."""
    text = layout.task_name(setting)
    if pd.notna(setting["converge"]):
        text += f", trained until {100 * setting['converge']:.4g}% accuracy"
    return text


def _title(name):
    return ATTACKS[name].title if name in ATTACKS else name


def _restarts(setting):
    number = setting["restarts"]
    many = pd.notna(number) and number > 1
    return f" ({count(int(number), 'restart')})" if many else ""
