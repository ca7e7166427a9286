"""The federations that are attacked: what they compute, and their rounds before the attack.

Runs that differ in their attack alone have these rounds in common, so they are run once.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import backdoor
import defence
import numpy as np
from settings import Options, before_attack, pgd_step, rates, tolerated
from settings import training as training_of

from fl.data import datasets, partition, sampling
from fl.experiment.program import checkpoint_path, evaluator, initial_params, load
from fl.simulation import algorithms, engine, models, rounds, run, training


class UnusableError(ValueError):
    """A data set that cannot be attacked; the message says why."""


class Clean(NamedTuple):
    """A federation before it is attacked.

    Attributes:
        outcome: of the rounds before.
        federation: as it was before its first round.
        sampler: stands where the attacked round would draw its minibatches.
        scores: what is evaluated, by name.
        dataset: on the host.
        checkpoint: where these rounds keep theirs, to be removed once all results are safe.
    """

    outcome: run.Outcome
    federation: engine.Federation
    sampler: sampling.MinibatchSampler
    scores: dict[str, Callable]
    dataset: datasets.Dataset
    checkpoint: Path


def train(options: Options, cell: dict) -> Clean:
    """Run the rounds before an attack.

    Args:
        options: the command line.
        cell: one of `settings.grid`.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
        UnusableError: if the data set cannot be attacked.
    """
    seed = sampling.run_seed(cell["seed"])
    dataset, samples = load(cell["dataset"], options.data_dir)
    try:
        backdoor.check(dataset)
    except ValueError as error:
        raise UnusableError(f"argument -d/--dataset: {error}") from error
    samples = backdoor.with_triggers(samples)
    parts = partition.latent_dirichlet(
        dataset.train_labels, cell["clients"], np.random.default_rng(seed), cell["alpha"]
    )
    # In this experiment all clients draw with generators of the same seed.
    sampler = sampling.MinibatchSampler(parts, cell["batch_size"], [seed] * len(parts))
    federation = engine.start(
        work(options, cell),
        initial_params(cell["model"], samples, seed),
        samples,
        sampler.weights.shape,
        cell["local_steps"],
        keep_clients=True,  # an adversary's message and state are its own
        seed=seed,
    )
    without_last = cell["batch_size"] if options.as_published else None
    scores = {
        "accuracy": evaluator(cell["dataset"], options.data_dir, cell["model"], without_last),
        "asr": _attack_success(cell["dataset"], options.data_dir, cell["model"]),
    }
    plan = run.Plan(cell["start_round"], cell["local_steps"], options.evaluate_every)
    saved = checkpoint_path(options.results, before_attack(options, cell), plan)
    honest = backdoor.Attacked(sampler, backdoor.honest)
    label = describe(cell | {"attack": "before the"})
    outcome = run.train(federation, honest, scores, plan, saved=saved, label=label)
    return Clean(outcome, federation, sampler, scores, dataset, saved)


def describe(cell: dict) -> str:
    """A run in a few words."""
    eps = f" eps={cell['eps']:g}" if cell["eps"] is not None else ""
    names = (cell["dataset"], cell["model"], cell["algorithm"])
    defended = f"{cell['defence']}{eps}".replace("none", "no defence")
    attack = cell["attack"].replace("none", "no").replace("_", "-")
    return f"{' '.join(names)}, {defended}, {attack} attack, seed {cell['seed']}"


def work(options: Options, cell: dict) -> rounds.Work:
    """What honest clients and the server compute."""
    names = ("model", "algorithm", "defence", "eps", "clients")
    return _work(options, *(training_of(options, cell)[name] for name in names))


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _work(options, model_name, algorithm_name, defence_name, eps, clients):
    algorithm = algorithms.ALGORITHMS[algorithm_name](**rates(options, algorithm_name))
    model = models.MODELS[model_name]()
    return rounds.Work(
        algorithm,
        training.sample_losses(model),
        defence.harden(defence_name, model, pgd_step(options, algorithm_name), eps),
        aggregator=defence.aggregator(
            defence_name, tolerated(options, clients), options.norm_bound
        ),
        guard=defence.guard(defence_name, frozen=options.as_published),
    )


@lru_cache(maxsize=1)
def _attack_success(name, data_dir, model):
    """Make params -> share of test images of the source, with the trigger, taken for the target."""
    dataset, _ = load(name, data_dir)
    triggered = backdoor.with_triggers(training.test_samples(dataset))
    indices = backdoor.test_indices(dataset.test_labels)
    return training.share_as_labelled(models.MODELS[model](), triggered, indices)
