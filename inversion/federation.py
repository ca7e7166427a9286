"""The federations that are attacked: training up to the attack."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from observation import Observation, Truth, observe, observe_stale
from settings import Options

from fl.data import augmentation, partition, sampling
from fl.experiment.program import (
    PGD_STEP_SHARE,
    checkpoint_path,
    evaluator,
    initial_params,
    load,
)
from fl.simulation import algorithms, clip_and_noise, engine, models, pgd, rounds, run, training

# Largest angle of --perturb, in degrees.
PERTURBATION = 10.0
# What the published code does instead, restored by --as-published.
PUBLISHED_SECADAM = {"offset": 1e-8, "bias_correction": False}
PUBLISHED_PGD_STEP = {"fedavg": 1e-3, "adam": 1e-3, "secadam": 1e-5}
# Rounds between looks at whether training has converged.
EVALUATE_EVERY = 10


class Trained(NamedTuple):
    """A federation after training.

    Attributes:
        outcome: of the training, with every client's own optimizer state.
        work: what clients and server computed.
        samples: the training set.
        sampler: stands where the next round would draw its minibatches.
        checkpoint: where the training keeps its checkpoint, to be removed once its results are
            safe.
    """

    outcome: run.Outcome
    work: rounds.Work
    samples: training.Samples
    sampler: sampling.MinibatchSampler
    checkpoint: Path


def train(options: Options, cell: dict) -> Trained:
    """Train, or go on from the last checkpoint of the same training.

    Args:
        options: the command line.
        cell: one of `settings.trainings`.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
    """
    seed = sampling.run_seed(cell["seed"])
    dataset, samples = load(cell["dataset"], options.data_dir)
    parts = partition.latent_dirichlet(
        dataset.train_labels, cell["clients"], np.random.default_rng(seed), cell["alpha"]
    )
    # In this experiment every client draws with a seed of its own.
    seeds = [seed + client for client in range(len(parts))]
    sampler = sampling.MinibatchSampler(parts, cell["batch_size"], seeds)
    todo = _work(options, cell["model"], algorithm_name(cell))
    federation = engine.start(
        todo,
        initial_params(cell["model"], samples, seed),
        samples,
        sampler.weights.shape,
        local_steps=1,
        keep_clients=True,  # an attack on a client looks at its own moments
        seed=seed,
    )
    every = options.evaluate_every or EVALUATE_EVERY
    plan = run.Plan(cell["rounds"], 1, every)
    label, target = describe(cell), cell["converge"]
    without_last = cell["batch_size"] if options.as_published else None
    accuracy = evaluator(cell["dataset"], options.data_dir, cell["model"], without_last)
    saved = checkpoint_path(options.results, cell, plan)
    outcome = run.train(
        *(federation, sampler, {"accuracy": accuracy}, plan, run.until_accuracy(target)),
        *(saved, label),
    )
    return Trained(outcome, todo, samples, sampler, saved)


def look(options: Options, cell: dict, trained: Trained) -> tuple[Observation, Truth]:
    """What the server sees of one more step, and the truth behind it."""
    indices = trained.sampler.draw(1, 1).indices[0, :, 0]
    seen = trained.work, trained.outcome.state, trained.samples, indices
    if options.as_published and algorithm_name(cell) != "secadam":
        later = trained.sampler.draw(1, 1).indices[0, :, 0]
        return observe_stale(*seen, later, trained.sampler.weights)
    return observe(*seen, trained.sampler.weights)


def algorithm_name(cell: dict) -> str:
    """Canonical name of a cell's algorithm, without what is done to its messages and images."""
    return cell["algorithm"].removeprefix("dp_").removesuffix("_perturbed")


def describe(cell: dict) -> str:
    """A training in a few words."""
    privacy = f" C={cell['clip']:g} sigma={cell['noise']:g}" if cell["clip"] else ""
    names = (cell["dataset"], cell["model"], cell["algorithm"] + privacy)
    return f"{' '.join(names)}, seed {cell['seed']}"


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _work(options, model, name):
    """Say what clients and server compute in training."""
    published = options.as_published
    settings = PUBLISHED_SECADAM if published and name == "secadam" else {}
    algorithm = algorithms.ALGORITHMS[name](**options.rates(), **settings)
    losses = training.sample_losses(models.MODELS[model]())
    step = PUBLISHED_PGD_STEP[name] if published else PGD_STEP_SHARE * algorithm.client_rate
    if options.pgd_step is not None:
        step = options.pgd_step
    return rounds.Work(
        algorithm,
        losses,
        pgd.pgd(losses, step),
        augment=augmentation.random_rotation(PERTURBATION) if options.perturb else None,
        privatise=clip_and_noise.privatiser(*options.dp, published) if options.dp else None,
    )
