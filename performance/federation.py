"""The federation of a run: whose data, what is computed, trained to the end."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from protocol import Protocol, Settings
from runs import Overrides, Run, describe
from secagg.graph import ALL

from fl.data import partition, sampling
from fl.experiment.departures import Departures
from fl.experiment.program import PGD_STEP_SHARE, evaluator, initial_params, load
from fl.simulation import algorithms, engine, models, pgd, training
from fl.simulation.rounds import Work
from fl.simulation.run import Outcome, Plan, train, until_accuracy

# What the published code does instead, restored by --as-published.
PUBLISHED_OFFSET = 1e-9
PUBLISHED_PGD_STEP = {
    algorithms.UPDATES: 1e-3,
    algorithms.CONTROLLED: 1e-3,
    algorithms.MOMENTS: 1e-6,
}


class Trained(NamedTuple):
    """What came of a run.

    Attributes:
        outcome: of the training.
        protocol: what secure aggregation took, as `runs.PROTOCOL`; empty for sums in the clear.
    """

    outcome: Outcome
    protocol: dict[str, float]


def plan(run: Run, evaluate_every: int | None) -> Plan:
    """The rounds of a run.

    Args:
        run: which.
        evaluate_every: rounds between evaluations; None for the default.
    """
    every = evaluate_every or (1 if run.convergence else 100)
    return Plan(run.rounds, run.local_steps, every)


def train_federation(run: Run, plan: Plan, data_dir: Path | None, saved: Path) -> Trained:
    """Train, or go on from a checkpoint of the same run.

    Args:
        run: which.
        plan: from `plan`.
        data_dir: where data sets are, see `datasets.load`.
        saved: the checkpoint, see `startup.checkpoint_path`.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
    """
    seed = sampling.run_seed(run.seed)
    dataset, samples = load(run.dataset, data_dir)
    rng = np.random.default_rng(seed)
    parts = partition.PARTITIONS[run.partition](
        dataset.train_labels,
        run.clients,
        rng,
        **({"alpha": run.alpha} if run.alpha else {}),
    )
    # In this experiment all clients draw with generators of the same seed.
    cohort = sampling.cohort(run.overrides.participation, run.clients, rng)
    sampler = sampling.MinibatchSampler(parts, run.batch_size, [seed] * len(parts), cohort)
    todo = work(run.model, run.algorithm, run.local_steps, run.departures, run.overrides)
    secure = secure_aggregation(run, seed) if run.aggregation == "protocol" else None
    if secure:
        todo = todo._replace(aggregator=secure.aggregator())
    params = initial_params(run.model, samples, seed)
    rest = cohort is not None
    federation = engine.start(todo, params, samples, run.clients, run.local_steps, rest=rest)
    without_last = run.batch_size if run.departures.last_batch else None
    scores = {"accuracy": evaluator(run.dataset, data_dir, run.model, without_last)}
    stop = until_accuracy(run.convergence)
    outcome = train(federation, sampler, scores, plan, stop, saved, describe(run))
    played = int(outcome.state.memory[0]) if secure else 0
    return Trained(outcome, secure.summary(played) if secure else {})


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def work(
    model: str, algorithm: str, local_steps: int, departures: Departures, overrides: Overrides
) -> Work:
    """What clients and server compute: the algorithm, the loss and the hardening."""
    settings = overrides.given("client_rate", "server_rate")
    made = algorithms.build(algorithm, local_steps, **settings)
    if departures.moments and made.sends == algorithms.MOMENTS:
        made = algorithms.build(algorithm, local_steps, offset=PUBLISHED_OFFSET, **settings)
    losses = training.sample_losses(models.MODELS[model](), departures.clipped_loss)
    if overrides.hardening == "none":
        return Work(made, losses, pgd.none())
    step = PGD_STEP_SHARE * made.client_rate
    if departures.pgd_step:
        step = PUBLISHED_PGD_STEP[made.sends]
    if overrides.pgd_step is not None:
        step = overrides.pgd_step
    return Work(made, losses, pgd.pgd(losses, step))


def secure_aggregation(run: Run, seed: int) -> Protocol:
    """The protocol, as a run asks for it."""
    neighbours, drop_out = run.overrides.neighbours or ALL, run.overrides.drop_out or 0.0
    clients = sampling.cohort_size(run.overrides.participation, run.clients)
    return Protocol(Settings(clients, neighbours, drop_out, seed, run.ratio))
