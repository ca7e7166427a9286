"""The federations that are attacked: training up to the attack."""

from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from runs import Run, describe
from server_view import Observation, Truth, observe, observe_stale
from threat_model import PublicKnowledge

from fl.data import augmentation, partition, sampling
from fl.experiment.program import (
    PGD_STEP_SHARE,
    checkpoint_path,
    evaluator,
    initial_params,
    load,
)
from fl.simulation import algorithms, clip_and_noise, engine, models, pgd, rounds, run, training

# Largest angle of a perturbed image, in degrees.
PERTURBATION = 10.0
# What the published code does instead.
PUBLISHED_MOMENTS = {"offset": 1e-8, "bias_correction": False}
PUBLISHED_PGD_STEP = {algorithms.UPDATES: 1e-3, algorithms.MOMENTS: 1e-5}
# Rounds between looks at whether training has converged.
EVALUATE_EVERY = 10


class Trained(NamedTuple):
    """A federation after training.

    Attributes:
        outcome: of the training, with every client's own optimizer state.
        work: what clients and server computed.
        samples: the training set.
        sampler: stands where the next round would draw its minibatches.
        public: what everyone knows of it.
        checkpoint: where the training keeps its checkpoint, to be removed once its results are
            safe.
    """

    outcome: run.Outcome
    work: rounds.Work
    samples: training.Samples
    sampler: sampling.MinibatchSampler
    public: PublicKnowledge
    checkpoint: Path


def train(of: Run, data_dir: Path | None, results_path: Path) -> Trained:
    """Train, or go on from the last checkpoint of the same training.

    Args:
        of: a run; its attack plays no part.
        data_dir: as for `fl.data.datasets.load`.
        results_path: the results file, beside which checkpoints lie.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
    """
    seed = sampling.run_seed(of.seed)
    dataset, samples = load(of.dataset, data_dir)
    parts = partition.latent_dirichlet(
        dataset.train_labels, of.clients, np.random.default_rng(seed), of.alpha
    )
    # In this experiment every client draws with a seed of its own.
    seeds = [seed + client for client in range(len(parts))]
    sampler = sampling.MinibatchSampler(parts, of.batch_size, seeds)
    work = work_of(of)
    federation = engine.start(
        work,
        initial_params(of.model, samples, seed),
        samples,
        of.clients,
        local_steps=1,
        keep_clients=True,  # an attack on a client looks at its own moments
        seed=seed,
    )
    plan = run.Plan(of.rounds, 1, of.overrides.evaluate_every or EVALUATE_EVERY)
    without_last = of.batch_size if of.as_published else None
    scores = {"accuracy": evaluator(of.dataset, data_dir, of.model, without_last)}
    saved = checkpoint_path(results_path, of.training(), plan)
    stop = run.until_accuracy(of.converge)
    outcome = run.train(federation, sampler, scores, plan, stop, saved, describe(of))
    public = PublicKnowledge(
        model=models.MODELS[of.model](),
        image_shape=samples.images.shape[1:],
        batch=of.batch_size,
        algorithm=work.algorithm,
    )
    return Trained(outcome, work, samples, sampler, public, saved)


def one_more_step(trained: Trained, as_published: bool) -> tuple[Observation, Truth]:
    """What the server sees of one more step, and the truth behind it.

    Args:
        trained: whose sampler draws the minibatches.
        as_published: of clients that send updates, show the stale ones of the published code.
    """
    indices = trained.sampler.draw(1, 1).indices[0, :, 0]
    seen = trained.work, trained.outcome.state, trained.samples, indices
    if as_published and trained.work.algorithm.sends == algorithms.UPDATES:
        later = trained.sampler.draw(1, 1).indices[0, :, 0]
        return observe_stale(*seen, later, trained.sampler.weights)
    return observe(*seen, trained.sampler.weights)


def work_of(of: Run) -> rounds.Work:
    """Say what clients and server compute in the training of a run."""
    privacy = None if of.clip is None else (of.clip, of.noise)
    rates = tuple(of.overrides.given("client_rate", "server_rate").items())
    step = of.overrides.pgd_step
    return _work(of.model, of.algorithm_name, rates, step, privacy, of.perturbed, of.as_published)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _work(model, algorithm_name, rates, pgd_step, privacy, perturbed, as_published):
    build = partial(algorithms.ALGORITHMS[algorithm_name], **dict(rates))
    algorithm = build()
    if as_published and algorithm.sends == algorithms.MOMENTS:
        algorithm = build(**PUBLISHED_MOMENTS)
    if pgd_step is None:
        published = PUBLISHED_PGD_STEP[algorithm.sends]
        pgd_step = published if as_published else PGD_STEP_SHARE * algorithm.client_rate
    losses = training.sample_losses(models.MODELS[model]())
    return rounds.Work(
        algorithm,
        losses,
        pgd.pgd(losses, pgd_step),
        augment=augmentation.random_rotation(PERTURBATION) if perturbed else None,
        privatise=clip_and_noise.privatiser(*privacy, as_published) if privacy else None,
    )
