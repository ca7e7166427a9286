"""The defences by name: all that is said of one is its entry in `DEFENCES`.

A run's defence is `none`, a name, or several joined by +: one of each kind at most.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import robust_aggregation
from flip import flip

from fl.experiment.departures import Departures
from fl.simulation import clip_and_noise, pgd, training
from fl.simulation.models import Classifier

# What is put in the place of the mean, done to the server's step, and to honest clients'
# minibatches: named after the fields of `fl.simulation.rounds.Work` that they fill.
AGGREGATOR, GUARD, HARDENING = KINDS = ("aggregator", "guard", "harden")
# The norm that noise_clip scales the server's step down to, and the deviation of its noise.
CLIP, NOISE = 0.01, 1e-5


class Setting(NamedTuple):
    """What a defence is set up for.

    Attributes:
        model: that the federation trains.
        tolerated: adversaries to withstand, at least 0.
        norm_bound: L2 norm to which norm_bounding scales messages down, above 0.
        pgd_step: in pixel intensity, at least 0.
        eps: half-width of PGD's box, in pixel intensity; None for one that binds nothing.
        departures: what is done as the published code does it.
        clip_norm: L2 norm to which noise_clip scales the server's step down, above 0.
    """

    model: Classifier
    tolerated: int
    norm_bound: float
    pgd_step: float
    eps: float | None
    departures: Departures = Departures()
    clip_norm: float = CLIP


@dataclass(frozen=True)
class Defence:
    """What a server or its honest clients do against backdoors.

    Attributes:
        title: in tables and figures.
        kind: one of `KINDS`.
        build: `Setting` -> the field of `fl.simulation.rounds.Work` of that kind.
        clients: adversaries to withstand -> how many clients it needs at least.
        needs_messages: whether the server must see single messages in the clear, which secure
            aggregation denies it: then SecAdam is no longer private.
        takes_eps: whether it is PGD with a box, so that runs are made for each eps.
        follows_clients: whether it compares what all clients sent in every round so far.
    """

    title: str
    kind: str
    build: Callable[[Setting], Any]
    clients: Callable[[int], int] = lambda tolerated: 1
    needs_messages: bool = False
    takes_eps: bool = False
    follows_clients: bool = False


def _aggregator(title, build, **facts):
    return Defence(title, AGGREGATOR, build, needs_messages=True, **facts)


def _clip_and_noise(setting):
    mechanism = clip_and_noise.privatiser(setting.clip_norm, NOISE)
    if not setting.departures.frozen_noise:
        return mechanism
    always = jax.random.PRNGKey(0)
    return lambda step, key: mechanism(step, always)


def _pgd(setting):
    eps = setting.pgd_step if setting.eps is None else setting.eps
    losses = training.sample_losses(setting.model, setting.departures.clipped_loss)
    return pgd.pgd(losses, setting.pgd_step, eps)


# In the order of tables and figures.
DEFENCES = {
    "noise_clip": Defence("Clip and noise", GUARD, _clip_and_noise),
    "pgd": Defence("PGD", HARDENING, _pgd, takes_eps=True),
    "flip": Defence("FLIP", HARDENING, lambda setting: flip(setting.model.apply)),
    "median": _aggregator("Median", lambda setting: robust_aggregation.median()),
    "trimmed_mean": _aggregator(
        "Trimmed mean",
        lambda setting: robust_aggregation.trimmed_mean(setting.tolerated),
        clients=robust_aggregation.trimmed_mean_clients,
    ),
    "multi_krum": _aggregator(
        "Multi-Krum",
        lambda setting: robust_aggregation.multi_krum(setting.tolerated),
        clients=robust_aggregation.multi_krum_clients,
    ),
    "norm_bounding": _aggregator(
        "Norm bounding", lambda setting: robust_aggregation.norm_bounding(setting.norm_bound)
    ),
    "geometric_median": _aggregator(
        "Geometric median", lambda setting: robust_aggregation.geometric_median()
    ),
    "foolsgold": _aggregator(
        "FoolsGold", lambda setting: robust_aggregation.foolsgold(), follows_clients=True
    ),
}


def of_kind(kind: str) -> list[str]:
    """Names of the defences of a kind."""
    return [name for name, entry in DEFENCES.items() if entry.kind == kind]


def parts(name: str) -> list[Defence]:
    """The entries that a run's defence joins; none for `none`."""
    return [DEFENCES[part] for part in name.split("+") if part != "none"]


def combine(names: Iterable[str]) -> str:
    """One name for several defences, in a fixed order.

    Raises:
        ValueError: for an unknown one, or two of a kind.
    """
    given = {name for name in names if name != "none"}
    unknown = sorted(given - set(DEFENCES))
    if unknown:
        raise ValueError(f"unknown {unknown[0]!r}: choose from {', '.join(('none', *DEFENCES))}")
    chosen = [[name for name in of_kind(kind) if name in given] for kind in KINDS]
    for same in chosen:
        if len(same) > 1:
            raise ValueError(f"{' and '.join(same)}: only one of its kind at a time")
    return "+".join(name for same in chosen for name in same) or "none"


def check_clients(name: str, clients: int, tolerated: int) -> None:
    """Make sure that a run's defence can do with so many clients.

    Raises:
        ValueError: if it cannot.
    """
    for entry in parts(name):
        if clients < (least := entry.clients(tolerated)):
            raise ValueError(
                f"{entry.title} against {tolerated} adversaries needs at least {least} clients, "
                f"got {clients}"
            )


def build(name: str, setting: Setting) -> dict[str, Any]:
    """What a run's defence puts into `fl.simulation.rounds.Work`: fields by name."""
    undefended = {HARDENING: pgd.none()}
    return undefended | {entry.kind: entry.build(setting) for entry in parts(name)}
