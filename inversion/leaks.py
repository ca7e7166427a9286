"""What leaks to attacks that watch a window of rounds: their scores, by what they look at."""

from collections.abc import Mapping

import pandas as pd
from ratio_protection import NOISE, NONE, PROTECTIONS, protection
from runs import PRIVATE
from settings import DELTA, EPSILON, SIGMA

from fl.experiment import summary
from fl.experiment.layout import count

# Decibels above chance within which no leak is claimed.
MARGIN = 3.0
BITS, DP = "bits", "dp"
# Kinds of protection, in the order of plots and tables.
KINDS = [NONE, BITS, NOISE, DP]
# Where nothing is done to ratios or gradients.
UNPROTECTED = "Unprotected"
# A client's own messages, and the aggregate of all clients'.
OWN, AGGREGATE = "own", "aggregate"
# Prefix of a score, and what it is of.
TARGETS = {"": OWN, "global_": AGGREGATE}
SCORES = {
    **{"leak": "psnr", "chance": "chance_psnr", "ceiling": "ceiling_psnr"},
    "found": "recovered",
}
# The same for all that is averaged, but for the seed.
SETTING = [
    *("dataset", "model", "algorithm", "attack", "restarts", "clients", "batch_size"),
    *("local_steps", "rounds", "window", "attack_round", "alpha", "partition", "converge"),
    *("variant", "departures", "overrides", "target", "protection", "clip", "noise"),
]
# Of these, what `protected` says in words.
PROTECTION = ["protection", "clip", "noise"]
# What differential privacy promises with these.
GUARANTEE = ["epsilon", "delta"]
NEEDS = [prefix + column for prefix in TARGETS for column in SCORES.values()]


def leaks(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs whose attack watches a window, a row for each of what it looks at.

    Args:
        frame: runs, those of other attacks among them.

    Returns:
        Their rows, once for the aggregate and once for clients' own messages where these are
        scored; one client's aggregate is its own. Further columns: target, `OWN` or `AGGREGATE`;
        leak, chance and ceiling, in dB; found, the share of images; images, how many are behind
        a message; protected, in words what is done to ratios or gradients, in an order of its own.
        What is done is left out of `algorithm`.
    """
    frame = frame[frame["window"].notna()]
    frame = frame.assign(
        algorithm=frame["algorithm"].astype(str).str.removeprefix(PRIVATE),
        protected=_protections(frame),
        # Empty for other attacks, and so no whole numbers before.
        **{name: frame[name].astype(int) for name in ("window", "attack_round")},
    )
    parts = []
    for prefix, target in TARGETS.items():
        part = frame.assign(
            target=target, **{name: frame[prefix + column] for name, column in SCORES.items()}
        )
        mixed = part["clients"] if target == AGGREGATE else 1
        part = part.assign(images=mixed * part["batch_size"] * part["local_steps"])
        apart = part["leak"].notna() & (part["clients"] > 1)
        parts.append(part if target == AGGREGATE else part[apart])
    return pd.concat(parts)


def of_whom(row: Mapping) -> str:
    """Say whose messages a row is about, and how many images each brings."""
    clients = count(row["clients"], "client")
    if row["target"] == OWN:
        clients = f"One of {clients}"
    elif row["clients"] > 1:
        clients = f"Aggregate of {clients}"
    return f"{clients}, batch size {row['batch_size']}"


def protection_kind(row: Mapping) -> str:
    """Say what kind of protection a row has, one of `KINDS`."""
    if pd.notna(row["clip"]):
        return DP
    if pd.isna(row["protection"]):
        return NONE
    return NOISE if row["protection"].startswith(NOISE) else BITS


def _protections(frame):
    """In words what is done to ratios or gradients, the kinds one after the other."""
    frame = frame.reindex(columns=[*PROTECTION, *GUARANTEE])  # of the latter, older files have none
    known = frame.drop_duplicates().to_dict("records")
    order = [_protection(row) for row in sorted(known, key=_place)]
    return summary.ordered(map(_protection, frame.to_dict("records")), order)


def _place(row):
    kind, name = protection_kind(row), row["protection"]
    if kind == DP:
        strength = -row["clip"], row["noise"]
    elif kind == NOISE:
        strength = (float(name.partition("=")[2]),)
    else:
        strength = (list(PROTECTIONS).index(name) if kind == BITS else 0,)
    return KINDS.index(kind), strength


def _protection(row):
    parts = [] if pd.isna(row["protection"]) else [protection(row["protection"]).title]
    if pd.notna(row["clip"]):
        parts.append(f"DP, C = {row['clip']:g}, {SIGMA} = {row['noise']:.3g}")
    if pd.notna(row["epsilon"]):
        parts.append(f"{EPSILON} = {row['epsilon']:.4g}, {DELTA} = {row['delta']:g}")
    return ", ".join(parts) or UNPROTECTED
