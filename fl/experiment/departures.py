"""Where the published code departs from the paper or from sense, as `--as-published` restores it.

The code is that of github.com/codymlewis/SecOpt at commit 20f3a77. Corrected behaviour is what all
else here does; each of these is one branch where it acts. Which of them act is said by each
experiment's `runs.DEPARTURES`, and what they cost by docs/fidelity.md.
"""

import argparse
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from typing import Self

# What the column `variant` says of none of an experiment's departures, of all, and of some.
CORRECTED, PUBLISHED, PARTIAL = "corrected", "published", "partial"
PART_OF = {"hardened-stale": "stale-update"}  # acts only together with the other


@dataclass(frozen=True)
class Departures:
    """What is done as the published code does it; an id is a field's name with hyphens.

    Attributes:
        stale_update: of clients that send updates, w minus the client's parameters of the previous
            round is attacked, and scored against a later minibatch.
        hardened_stale: that round is as trained: hardened, and clip and noise are drawn afresh for
            what is attacked. Part of `stale_update`.
        dp_clip: an update is divided by min(1, norm / C).
        frozen_noise: noise of clip and noise and of certificates is drawn once.
        radius: CRFL's radius lacks the Lipschitz factor, the later rounds and the learning rate,
            parameters are not clipped in norm, and votes never abstain.
        eps_unused: the half-width of PGD's box is 0.3 whatever `--eps` says.
        delta: the radius to certify is 0.3 unless `--eps` says otherwise, with or without PGD.
        poison_share: certificates assume a quarter of an adversary's minibatch poisoned.
        moments: SecAdam's moments are sent raw or with another offset, by experiment.
        pgd_step: the step of PGD is a constant, not 1 % of the client's learning rate.
        clipped_loss: softmax outputs are clipped before the logarithm.
        best_match: each metric chooses the best true image of a reconstruction's label.
        ssim_range: SSIM takes pixels to span 2.
        one_start: every client's attack starts from the same images.
        idlg_scale: iDLG takes an update as sent for the gradient.
        last_batch: the last minibatch of the test set is never evaluated.
        converge_every: with `--converge`, accuracy is looked at every round.
        shared_poison: adversaries draw backdoored images with generators of one seed, and clean
            ones as honest clients with smaller minibatches.
        small_adversary: an adversary that holds less than a batch splits what it has.
        adversary_pgd: adversaries never harden, also outside attacked rounds.
    """

    stale_update: bool = False
    hardened_stale: bool = False
    dp_clip: bool = False
    frozen_noise: bool = False
    radius: bool = False
    eps_unused: bool = False
    delta: bool = False
    poison_share: bool = False
    moments: bool = False
    pgd_step: bool = False
    clipped_loss: bool = False
    best_match: bool = False
    ssim_range: bool = False
    one_start: bool = False
    idlg_scale: bool = False
    last_batch: bool = False
    converge_every: bool = False
    shared_poison: bool = False
    small_adversary: bool = False
    adversary_pgd: bool = False

    @classmethod
    def of(cls, ids: Iterable[str]) -> Self:
        """Those of some ids, each a field's name with hyphens."""
        return cls(**{name.replace("-", "_"): True for name in ids})

    def ids(self) -> list[str]:
        """Their ids, in the order of the fields."""
        return [item.name.replace("_", "-") for item in fields(self) if getattr(self, item.name)]

    def __str__(self) -> str:
        """As the column `departures` has it; empty for none."""
        return " ".join(self.ids())


def variant(departures: Departures, acting: Collection[str]) -> str:
    """What the column `variant` says.

    Args:
        departures: of a run.
        acting: ids of those that act in its experiment.
    """
    if departures == Departures():
        return CORRECTED
    return PUBLISHED if departures == Departures.of(acting) else PARTIAL


def argument(acting: Collection[str]) -> Callable[[str], Departures]:
    """An argument type: ids joined by commas.

    Args:
        acting: ids of those that act in the experiment.
    """

    def parse(text):
        ids = text.split(",")
        for name in ids:
            if name not in acting:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is no departure that acts here: choose from {', '.join(acting)}"
                )
        for part, whole in PART_OF.items():
            if part in ids and whole not in ids:
                raise argparse.ArgumentTypeError(f"{part} is a part of {whole}: name both")
        return Departures.of(ids)

    return parse
