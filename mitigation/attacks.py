"""The attacks by name: all that is said of one is its entry in `ATTACKS`."""

from collections.abc import Callable
from dataclasses import dataclass

import attack_success
import poisoning
from model_replacement import model_replacement

# Share of all clients that attack continuously, and that the server expects to at most.
ADVERSARY_SHARE = 0.3


@dataclass(frozen=True)
class Stage:
    """Rounds that run alike, from the first attacked one on.

    Attributes:
        attacked: whether adversaries attack; else they are honest.
        rounds: how many; None for all that are left.
        until: evaluation -> whether to go on to the next stage. Every round is evaluated then.
            None to run all rounds, evaluated where those of other runs are, and after the last.
    """

    attacked: bool
    rounds: int | None = None
    until: Callable | None = None


@dataclass(frozen=True)
class Attack:
    """What adversaries do, when, and what is said of it afterwards.

    Attributes:
        title: in captions, after "under".
        stages: in order.
        adversaries: number of clients -> how many of them attack by default, at least 1; None for
            none.
        variant: number of an adversary -> the variant of its images, see `backdoor`.
        sizes: (data set, batch size) -> clean and backdoored samples of an adversary's minibatch.
        deviate: number of clients -> what an adversary sends and keeps in place of an honest client
            (see `fl.simulation.rounds.Work`); None for what an honest one would.
        scale_factor: number of clients -> CRFL's gamma, by which an adversary's upload is scaled.
        recovery: (history, number of the first attacked round) -> the column `recovery_rounds`.
        certifies: whether CRFL's certificate is about such an attack.
    """

    title: str
    stages: tuple[Stage, ...]
    adversaries: Callable[[int], int] | None = None
    variant: Callable[[int], int] = poisoning.whole_trigger
    sizes: Callable[[str, int], tuple[int, int]] = poisoning.all_backdoored
    deviate: Callable[[int], Callable] | None = None
    scale_factor: Callable[[int], float] = lambda clients: 1
    recovery: Callable = attack_success.no_recovery
    certifies: bool = True

    @property
    def lasts(self) -> bool:
        """Whether adversaries attack until the end."""
        return self.stages[-1].attacked

    def poisoned_share(self, dataset: str, batch_size: int) -> float:
        """CRFL's q / n, the share of an adversary's samples that is backdoored."""
        clean, backdoored = self.sizes(dataset, batch_size)
        return backdoored / (clean + backdoored)


# The first attacked round is a stage of its own: attack success is measured right after it.
ATTACKS = {
    "none": Attack(
        title="no attack",
        stages=(Stage(attacked=False),),
        certifies=False,
    ),
    # Many adversaries that poison some of their samples (DBA: Xie et al. 2020,
    # openreview.net/forum?id=rkgyS0VFvr).
    "continuous": Attack(
        title="a continuous attack",
        stages=(Stage(attacked=True, rounds=1), Stage(attacked=True)),
        adversaries=lambda clients: round(ADVERSARY_SHARE * clients),
        variant=poisoning.part_of_trigger,
        sizes=poisoning.mixed,
    ),
    # One adversary that replaces the model (Bagdasaryan et al. 2020, arXiv:1807.00459).
    "one_shot": Attack(
        title="a one-shot attack",
        stages=(
            Stage(attacked=True, rounds=1),
            Stage(attacked=False, until=attack_success.recovered),
            Stage(attacked=False),
        ),
        adversaries=lambda clients: 1,
        deviate=model_replacement,
        scale_factor=lambda clients: clients,
        recovery=attack_success.recovery_rounds,
    ),
}
