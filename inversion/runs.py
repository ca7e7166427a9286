"""What one run is, and the columns of results.csv."""

import math
from dataclasses import dataclass, replace

from dp_guarantee import Guarantee, guarantee

from fl.experiment import runs
from fl.experiment.departures import Departures
from fl.experiment.results import PROVENANCE
from fl.simulation.algorithms import ALGORITHMS, UPDATES

PRIVATE, PERTURBED = "dp_", "_perturbed"
# Departures of the published code that act here, see `fl.experiment.departures`.
DEPARTURES = (
    *("stale-update", "hardened-stale", "dp-clip", "moments", "pgd-step", "clipped-loss"),
    *("best-match", "ssim-range", "one-start", "idlg-scale", "last-batch", "converge-every"),
)
# Overrides that act on the attack alone: training does not depend on them.
ATTACK_OVERRIDES = ("attack_steps", "attack_clients", "scaled_ratio")


@dataclass(frozen=True)
class Overrides(runs.Overrides):
    """Options that change a run and have no column of their own; None for the default.

    Attributes:
        pgd_step: of hardening, in pixel intensity, at least 0.
        client_rate: the clients' learning rate, above 0.
        server_rate: the server's learning rate, above 0.
        evaluate_every: rounds between evaluations, at least 1.
        attack_steps: of an attack at most, at least 1.
        attack_clients: the first so many clients are attacked one by one, at least 0.
        shared_noise: True for clients that all add the same noise.
        scaled_ratio: True for attacks that are shown SecAdam's ratio times the clients' learning
            rate, and take that for it.
        participation: fraction of the clients in a round, above 0 and below 1; None for all.
    """

    pgd_step: float | None = None
    client_rate: float | None = None
    server_rate: float | None = None
    evaluate_every: int | None = None
    attack_steps: int | None = None
    attack_clients: int | None = None
    shared_noise: bool | None = None
    scaled_ratio: bool | None = None
    participation: float | None = None


@dataclass(frozen=True)
class Run:
    """A training, and one attack on what the server would see after it.

    Attributes:
        dataset: a name of `fl.data.datasets`.
        model: a key of `fl.simulation.models.MODELS`.
        clients: how many, at least 1.
        algorithm: as `algorithm_label` writes it, such as dp_fedavg or secadam_perturbed.
        attack: a key of `attacks.ATTACKS`.
        clip: L2 norm that each client's message is clipped to, above 0; None without privacy.
        noise: deviation of the noise that each client adds to every entry of its message, at least
            0; None as before.
        seed: number of the run, at least 0; see `fl.data.sampling.run_seed`.
        rounds: of training at most, at least 1.
        batch_size: samples in a minibatch, at least 1.
        local_steps: minibatches of a client in a round, at least 1.
        alpha: concentration of the Dirichlet distribution that deals classes out, above 0.
        partition: lda.
        restarts: random starts of the attack, of which its own loss chooses; at least 1.
        window: rounds that the attack watches, at least 2; None for attacks on a single round.
        attack_round: number of the round whose messages are attacked, or with which the window
            ends, at least 1; None for one more after the last.
        protection: what is done to ratios before the server sees them, as
            `ratio_protection.protection` reads it; None for nothing.
        converge: test accuracy in (0, 1] that ends training; None to train all rounds.
        variant: see `fl.experiment.departures.variant`.
        departures: what is done as the published code does it.
        overrides: what else was given.
    """

    dataset: str
    model: str
    clients: int
    algorithm: str
    attack: str
    clip: float | None
    noise: float | None
    seed: int
    rounds: int
    batch_size: int
    local_steps: int
    alpha: float
    partition: str
    restarts: int
    window: int | None
    attack_round: int | None
    protection: str | None
    converge: float | None
    variant: str
    departures: Departures
    overrides: Overrides

    @property
    def algorithm_name(self) -> str:
        """A key of `fl.simulation.algorithms.ALGORITHMS`: what is done beside it left out."""
        return self.algorithm.removeprefix(PRIVATE).removesuffix(PERTURBED)

    @property
    def perturbed(self) -> bool:
        """Whether every training image is rotated at random."""
        return self.algorithm.endswith(PERTURBED)

    def training(self) -> "Run":
        """The run without its attack: runs that are equal in this share one training."""
        overrides = replace(self.overrides, **dict.fromkeys(ATTACK_OVERRIDES))
        no_attack = {"attack": "", "restarts": 0, "window": None, "attack_round": None}
        return replace(self, **no_attack, overrides=overrides)

    @property
    def rounds_before(self) -> int | None:
        """Rounds of training before what the attack looks at; None for all of them."""
        if self.attack_round is None:
            return None
        return max(0, self.attack_round - (self.window or 1))

    def guarantee(self, delta: float) -> Guarantee | None:
        """What differential privacy the clients have; None without, and for noise that they share.

        Of all rounds that training may take, and of one more where that is attacked.

        Args:
            delta: in (0, 1).
        """
        if self.clip is None or self.overrides.shared_noise:
            return None
        updates = ALGORITHMS[self.algorithm_name]().sends == UPDATES
        bound = math.inf if self.departures.dp_clip and updates else self.clip
        rounds = self.rounds + (self.attack_round is None)
        return guarantee(bound, self.noise, self.clients, rounds, delta)


def algorithm_label(name: str, private: bool, perturbed: bool) -> str:
    """Write what the column `algorithm` says of an algorithm, and of what is done beside it."""
    return PRIVATE * private + name + PERTURBED * perturbed


# What a run is. One that is there twice counts once, the later one.
RUN = runs.columns(Run)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "algorithm", "attack", "clip", "noise", "epsilon", "delta"),
    *("final_accuracy", "psnr", "ssim", "cosine", "recovered", "chance_psnr", "ceiling_psnr"),
    *("global_psnr", "global_ssim", "global_cosine", "global_recovered", "global_chance_psnr"),
    *("global_ceiling_psnr", "labels_recovered", "classifier_distance", "seed", "rounds"),
    *("rounds_run", "batch_size", "local_steps", "alpha", "partition", "restarts", "window"),
    *("attack_round", "protection", "converge", "status", "variant", "departures"),
    *("overrides", "train_s", "attack_s", *PROVENANCE),
)


def describe(run: Run) -> str:
    """A run's training in a few words."""
    privacy = "" if run.clip is None else f" C={run.clip:g} sigma={run.noise:g}"
    return f"{run.dataset} {run.model} {run.algorithm}{privacy}, seed {run.seed}"
