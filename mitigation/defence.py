"""The defences by name: what the server does with messages and steps, what clients do with images.

A defence is a name, or several joined by +: at most one aggregator in place of the mean, a guard on
the server's step, and a hardening of the honest clients' minibatches.
"""

from collections.abc import Callable, Iterable

import aggregation
import jax
from flip import flip

from fl.simulation import clip_and_noise, pgd, training
from fl.simulation.models import Classifier
from fl.simulation.rounds import Aggregator

# Given the number of adversaries to withstand, and what norm_bounding bounds messages to.
AGGREGATORS: dict[str, Callable[[int, float], Aggregator]] = {
    "median": lambda adversaries, bound: aggregation.median(),
    "trimmed_mean": lambda adversaries, bound: aggregation.trimmed_mean(adversaries),
    "multi_krum": lambda adversaries, bound: aggregation.multi_krum(adversaries),
    "norm_bounding": lambda adversaries, bound: aggregation.norm_bounding(bound),
    "geometric_median": lambda adversaries, bound: aggregation.geometric_median(),
    "foolsgold": lambda adversaries, bound: aggregation.foolsgold(),
}
GUARDS = ("noise_clip",)
HARDENINGS = ("pgd", "flip")
# The norm that noise_clip scales the server's step down to, and the deviation of its noise.
CLIP, NOISE = 0.01, 1e-5
NORM_BOUND = 1.0


def parts(name: str) -> list[str]:
    """The defences that a name joins; none for `none`."""
    return [part for part in name.split("+") if part != "none"]


def combine(names: Iterable[str]) -> str:
    """One name for several defences, in a fixed order.

    Raises:
        ValueError: for two of a kind.
    """
    given = {name for name in names if name != "none"}
    for kind, members in (("aggregator", AGGREGATORS), ("hardening", HARDENINGS)):
        found = [name for name in members if name in given]
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)}: only one {kind} at a time")
    order = (*AGGREGATORS, *GUARDS, *HARDENINGS)
    return "+".join(name for name in order if name in given) or "none"


def check_clients(name: str, clients: int, adversaries: int) -> None:
    """Make sure that an aggregator can do with so many clients.

    Raises:
        ValueError: if it cannot.
    """
    if "multi_krum" in parts(name):
        aggregation.check_multi_krum(clients, adversaries)
    if "trimmed_mean" in parts(name):
        aggregation.check_trimmed_mean(clients, adversaries)


def aggregator(name: str, adversaries: int, norm_bound: float | None) -> Aggregator | None:
    """The aggregator of a defence; None for the mean.

    Args:
        name: of the defence.
        adversaries: how many the server expects to withstand.
        norm_bound: what norm_bounding bounds messages to; None for `NORM_BOUND`.
    """
    for part in parts(name):
        if part in AGGREGATORS:
            return AGGREGATORS[part](adversaries, norm_bound or NORM_BOUND)
    return None


def guard(name: str, frozen: bool) -> Callable | None:
    """What a defence does to the server's step, see `fl.simulation.rounds.Work`; None for nothing.

    Args:
        name: of the defence.
        frozen: draw noise_clip's noise once instead of afresh every round, as the published code
            does.
    """
    if "noise_clip" not in parts(name):
        return None
    mechanism = clip_and_noise.privatiser(CLIP, NOISE)
    if not frozen:
        return mechanism
    always = jax.random.PRNGKey(0)
    return lambda step, key: mechanism(step, always)


def harden(name: str, model: Classifier, step: float, eps: float | None) -> pgd.Harden:
    """How a defence has honest clients harden their minibatches.

    Args:
        name: of the defence.
        model: gives the logits.
        step: of PGD, in pixel intensity.
        eps: half-width of PGD's box, in pixel intensity; None for one that binds nothing.
    """
    if "pgd" in parts(name):
        losses = training.sample_losses(model)
        return pgd.pgd(losses, step, step if eps is None else eps)
    if "flip" in parts(name):
        return flip(model.apply)
    return pgd.none()
