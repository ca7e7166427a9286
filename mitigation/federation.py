"""The federations that are attacked: what they compute, and their rounds before the attack.

Runs that differ in their attack alone have these rounds in common, so they are run once.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import attack_success
import backdoor
import defences
import numpy as np
from attacks import ADVERSARY_SHARE
from poisoning import AdversarialSampler, last_clients
from runs import CERTIFICATE_OVERRIDES, Overrides, Run, describe

from fl.data import datasets, partition, sampling
from fl.experiment.program import PGD_STEP_SHARE, evaluator, initial_params, load
from fl.experiment.startup import checkpoint_path
from fl.simulation import algorithms, engine, models, pgd, rounds, training
from fl.simulation.run import Outcome, Plan
from fl.simulation.run import train as run_rounds

# Learning rates that differ from an algorithm's own, by what its clients send.
RATES = {algorithms.MOMENTS: {"client_rate": 0.01, "server_rate": 0.01}}
# Of PGD in the published code, in pixel intensity; its box there is `pgd.RADIUS`.
PUBLISHED_PGD_STEP = 1e-3
# L2 norm to which norm_bounding scales messages down.
NORM_BOUND = 1.0


class UnusableError(ValueError):
    """A data set that cannot be attacked; the message says why."""


class Clean(NamedTuple):
    """A federation before it is attacked.

    Attributes:
        outcome: of the rounds before.
        work: what honest clients and the server compute.
        start: work -> a federation of these clients before its first round.
        sampler: stands where the attacked round would draw its minibatches.
        scores: what is evaluated, by name.
        dataset: on the host.
        checkpoint: where these rounds keep theirs, to be removed once all results are safe.
    """

    outcome: Outcome
    work: rounds.Work
    start: Callable[[rounds.Work], engine.Federation]
    sampler: sampling.MinibatchSampler
    scores: dict[str, Callable]
    dataset: datasets.Dataset
    checkpoint: Path


def train(run: Run, data_dir: Path | None, results_path: Path, evaluate_every: int) -> Clean:
    """Run the rounds before an attack.

    Args:
        run: whose attack does not matter.
        data_dir: as for `fl.data.datasets.load`.
        results_path: the results file, beside which checkpoints lie.
        evaluate_every: rounds between evaluations, at least 1.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
        UnusableError: if the data set cannot be attacked.
    """
    seed = sampling.run_seed(run.seed)
    dataset, samples = load(run.dataset, data_dir)
    try:
        backdoor.check(dataset)
    except ValueError as error:
        raise UnusableError(f"argument -d/--dataset: {error}") from error
    samples = backdoor.with_triggers(samples)
    rng = np.random.default_rng(seed)
    parts = partition.latent_dirichlet(dataset.train_labels, run.clients, rng, run.alpha)
    cohort = sampling.cohort(run.overrides.participation, run.clients, rng)
    # In this experiment all clients draw with generators of the same seed.
    sampler = sampling.MinibatchSampler(parts, run.batch_size, [seed] * len(parts), cohort)
    start = partial(
        engine.start,
        params=initial_params(run.model, samples, seed),
        samples=samples,
        clients=run.clients,
        local_steps=run.local_steps,
        keep_clients=True,  # an adversary's message and state are its own
        seed=seed,
        rest=cohort is not None,
    )
    without_last = run.batch_size if run.departures.last_batch else None
    evaluated = run.dataset, data_dir, run.model, without_last
    scores = {
        "accuracy": evaluator(*evaluated),
        "asr": attack_success.evaluator(*evaluated),
    }
    plan = Plan(run.start_round, run.local_steps, evaluate_every)
    saved = checkpoint_path(results_path, before_attack(run), plan)
    todo = work(run)
    label = describe(replace(run, attack="before the"))
    honest = AdversarialSampler(sampler, unhardened=never_harden(run))
    outcome = run_rounds(start(todo), honest, scores, plan, saved=saved, label=label)
    return Clean(outcome, todo, start, sampler, scores, dataset, saved)


def rounds_of(run: Run) -> Run:
    """What of a run its rounds depend on, the attacked ones too: the rest is left out.

    A box of PGD that is wider than its single step binds nothing: runs that differ in such an eps
    are the same until they are certified.
    """
    box = run.eps
    if run.departures.eps_unused and box is not None:
        box = pgd.RADIUS
    binds = box is not None and box < pgd_step(run)
    overrides = replace(run.overrides, **dict.fromkeys(CERTIFICATE_OVERRIDES))
    return replace(run, eps=box if binds else None, delta=None, overrides=overrides)


def before_attack(run: Run) -> Run:
    """What of a run its rounds before the attack depend on."""
    adversaries = len(never_harden(run)) or None
    return replace(rounds_of(run), attack="none", adversaries=adversaries, rounds=run.start_round)


def never_harden(run: Run) -> np.ndarray:
    """Clients that do not harden in rounds without an attack either: int [client]."""
    hardens = any(entry.kind == defences.HARDENING for entry in defences.parts(run.defence))
    who = run.adversaries if hardens and run.departures.adversary_pgd else None
    return last_clients(run.clients, who or 0)


def algorithm(name: str, overrides: Overrides) -> algorithms.Algorithm:
    """An algorithm with its learning rates in this experiment."""
    build = algorithms.ALGORITHMS[name]
    rates = RATES.get(build().sends, {}) | overrides.given("client_rate", "server_rate")
    return build(**rates)


def pgd_step(run: Run) -> float:
    """PGD's step in pixel intensity."""
    if run.overrides.pgd_step is not None:
        return run.overrides.pgd_step
    if run.departures.pgd_step:
        return PUBLISHED_PGD_STEP
    return PGD_STEP_SHARE * algorithm(run.algorithm, run.overrides).client_rate


def tolerated(run: Run) -> int:
    """How many adversaries the server expects at most, whatever the attack."""
    given = run.overrides.tolerated
    return round(ADVERSARY_SHARE * run.clients) if given is None else given


def work(run: Run) -> rounds.Work:
    """What honest clients and the server compute in a run."""
    same = rounds_of(run)
    return _work(
        *(same.model, same.algorithm, same.defence, same.eps, same.overrides, same.departures),
        *(pgd_step(run), tolerated(run)),
    )


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _work(model_name, algorithm_name, defence, eps, overrides, departures, step, tolerated):
    model = models.MODELS[model_name]()
    setting = defences.Setting(
        model=model,
        tolerated=tolerated,
        norm_bound=overrides.norm_bound or NORM_BOUND,
        pgd_step=step,
        eps=eps,
        departures=departures,
        clip_norm=overrides.clip_norm or defences.CLIP,
    )
    return rounds.Work(
        algorithm(algorithm_name, overrides),
        training.sample_losses(model, departures.clipped_loss),
        **defences.build(defence, setting),
    )
