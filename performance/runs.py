"""What a run of this experiment is, and the columns of its results files."""

from dataclasses import dataclass

from fl.experiment import runs
from fl.experiment.departures import Departures
from fl.experiment.results import PROVENANCE

# Departures of the published code that act here, see `fl.experiment.departures`.
DEPARTURES = ("moments", "pgd-step", "clipped-loss", "last-batch")


@dataclass(frozen=True)
class Overrides(runs.Overrides):
    """Options that change a run and are rarely given; None where they are not.

    Attributes:
        hardening: of minibatches, "pgd" or "none".
        pgd_step: step of PGD, in pixel intensity.
        client_rate: the clients' learning rate.
        server_rate: the server's learning rate.
        evaluate_every: rounds between evaluations, where convergence is looked for: it is only as
            fine as they are.
        drop_out: under the protocol, probability with which a client vanishes in a round.
        neighbours: under the protocol, with how many others a client deals: a number, "all" or
            "auto".
        participation: fraction of the clients in a round, above 0 and below 1; None for all.
    """

    hardening: str | None = None
    pgd_step: float | None = None
    client_rate: float | None = None
    server_rate: float | None = None
    evaluate_every: int | None = None
    drop_out: float | None = None
    neighbours: str | int | None = None
    participation: float | None = None


@dataclass(frozen=True)
class Run:
    """A training from the first round to the last. One that is there twice counts once, the later.

    Attributes:
        dataset: a key of `datasets.DATASETS`.
        model: a key of `models.MODELS`.
        clients: how many, at least 1.
        algorithm: a key of `algorithms.ALGORITHMS`.
        alpha: concentration of the lda partition, above 0; None for the other partitions.
        local_steps: of a client in a round, at least 1.
        rounds: how many at most.
        batch_size: samples in a minibatch.
        seed: its number; `sampling.run_seed` makes a seed of it.
        partition: a key of `partition.PARTITIONS`.
        aggregation: "protocol" for secure aggregation, message by message, or "clear".
        ratio: who forms SecAdam's ratio under the protocol, "committee" or "masked", see `coding`;
            None where there is no protocol or no ratio.
        convergence: test accuracy, up to 1, at which it stops; None to run all rounds.
        variant: see `fl.experiment.departures.variant`.
        departures: what is done as the published code does it.
        overrides: see there.
    """

    dataset: str
    model: str
    clients: int
    algorithm: str
    alpha: float | None
    local_steps: int
    rounds: int
    batch_size: int
    seed: int
    partition: str
    aggregation: str
    ratio: str | None
    convergence: float | None
    variant: str
    departures: Departures
    overrides: Overrides


RUN = runs.columns(Run)
# What secure aggregation took of a round on average: bytes of a client, seconds of all parties by
# stage; in all rounds, entries that were clipped, clients that vanished, abandoned rounds; and what
# the probability is at most that a round leaks, see `secagg.graph.leak_bound`.
PROTOCOL = (
    *("sent_bytes", "received_bytes"),
    *("advertise_s", "share_s", "mask_s", "confirm_s", "unmask_s"),
    *("clipped", "dropped", "abandoned", "leak_bound"),
)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "algorithm", "alpha", "local_steps", "final_accuracy"),
    *("rounds", "batch_size", "seed", "partition", "aggregation", "ratio"),
    *("rounds_to_convergence", "convergence", "status", "variant", "departures"),
    *("overrides", "start_s", "wall_s", "rounds_per_s", *PROTOCOL, *PROVENANCE),
)
HISTORY_COLUMNS = (*RUN, "round", "accuracy", "loss", "date")


def describe(run: Run) -> str:
    """A run in a few words."""
    shared = run.partition + (f" {run.alpha}" if run.alpha else "")
    steps = f"{run.local_steps} local step" + ("s" if run.local_steps > 1 else "")
    names = (run.dataset, run.model, run.algorithm, shared, steps)
    return f"{' '.join(names)}, seed {run.seed}"
