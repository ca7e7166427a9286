"""What a run is: the columns that identify it, and those of what came of it."""

from dataclasses import dataclass

from fl.experiment import runs
from fl.experiment.departures import Departures
from fl.experiment.results import PROVENANCE

# Departures of the published code that act here, see `fl.experiment.departures`.
DEPARTURES = (
    *("frozen-noise", "radius", "eps-unused", "delta", "poison-share", "pgd-step"),
    *("clipped-loss", "last-batch", "shared-poison", "small-adversary", "adversary-pgd"),
)
# Overrides that act on certificates alone: rounds do not depend on them.
CERTIFICATE_OVERRIDES = ("smoothed_models", "sigma", "error", "bound", "scale_factor")


@dataclass(frozen=True)
class Overrides(runs.Overrides):
    """Options that change a run and have no column of their own.

    Attributes:
        pgd_step: of PGD, in pixel intensity, at least 0.
        client_rate: the clients' learning rate, above 0.
        server_rate: the server's learning rate, above 0.
        tolerated: adversaries that robust aggregators are to withstand, at least 0.
        norm_bound: L2 norm to which norm bounding scales messages down, above 0.
        clip_norm: L2 norm to which clip and noise scales the server's step down, above 0.
        smoothed_models: noisy models that vote for a certificate, M, at least 1.
        sigma: standard deviation of the noise on a smoothed model's parameters, above 0.
        error: probability with which each bound on the votes may be wrong, in (0, 1).
        bound: on the votes, one of `crfl.BOUNDS`.
        scale_factor: by which certificates take adversaries' uploads to be scaled, above 0.
        participation: fraction of the clients in a round, above 0 and below 1; None for all.
    """

    pgd_step: float | None = None
    client_rate: float | None = None
    server_rate: float | None = None
    tolerated: int | None = None
    norm_bound: float | None = None
    clip_norm: float | None = None
    smoothed_models: int | None = None
    sigma: float | None = None
    error: float | None = None
    bound: str | None = None
    scale_factor: float | None = None
    participation: float | None = None


@dataclass(frozen=True)
class Run:
    """A federation, the attack on it, the defence, and the certificate at the end.

    Attributes:
        dataset: canonical name of a data set.
        model: a key of `fl.simulation.models.MODELS`.
        clients: their number, at least 1.
        algorithm: a key of `fl.simulation.algorithms.ALGORITHMS`.
        attack: a key of `attacks.ATTACKS`.
        defence: `none`, or keys of `defences.DEFENCES` joined by +.
        eps: half-width of PGD's box, in pixel intensity; None without PGD.
        delta: radius from which on a prediction counts as certified, in L2 distance of pixel
            intensities; None where nothing is certified.
        adversaries: how many clients attack; None without an attack.
        seed: number of the run, see `fl.data.sampling.run_seed`.
        rounds: of the run.
        start_round: rounds before the first that is attacked, below `rounds`.
        local_steps: of a client in a round, at least 1.
        batch_size: samples in a minibatch.
        alpha: concentration of the partition.
        partition: who holds which samples, `lda`.
        variant: see `fl.experiment.departures.variant`.
        departures: what is done as the published code does it.
        overrides: other options that were given.
    """

    dataset: str
    model: str
    clients: int
    algorithm: str
    attack: str
    defence: str
    eps: float | None
    delta: float | None
    adversaries: int | None
    seed: int
    rounds: int
    start_round: int
    local_steps: int
    batch_size: int
    alpha: float
    partition: str
    variant: str
    departures: Departures
    overrides: Overrides


RUN = runs.columns(Run)
SCORES = (
    *("final_accuracy", "certified_accuracy", "first_asr", "final_asr", "certified_asr"),
    "recovery_rounds",
)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "attack", "defence", "eps", *SCORES, "seed"),
    *("algorithm", "delta", "adversaries", "rounds", "start_round", "local_steps", "batch_size"),
    *("alpha", "partition", "abstained", "median_radius", "status", "variant", "departures"),
    *("overrides", "train_s", "certify_s", *PROVENANCE),
)
HISTORY_COLUMNS = (*RUN, "round", "accuracy", "asr", "loss", "date")
CURVE = ("radius", "certified_accuracy", "certified_asr")
CURVE_COLUMNS = (*RUN, *CURVE, "date")


def describe(run: Run) -> str:
    """A run in a few words."""
    eps = "" if run.eps is None else f" eps={run.eps:g}"
    defended = f"{run.defence}{eps}".replace("none", "no defence")
    attack = run.attack.replace("none", "no").replace("_", "-")
    named = f"{run.dataset} {run.model} {run.algorithm}"
    return f"{named}, {defended}, {attack} attack, seed {run.seed}"
