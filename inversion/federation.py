"""The federations that are attacked: training up to the attack."""

import copy
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ratio_protection import protection
from runs import Run, describe
from server_view import (
    Memory,
    Observation,
    Truth,
    Window,
    observe,
    observe_stale,
    watch,
    watchful,
)
from threat_model import PublicKnowledge

from fl.data import augmentation, partition, sampling
from fl.experiment.program import (
    PGD_STEP_SHARE,
    evaluator,
    initial_params,
    load,
)
from fl.experiment.startup import checkpoint_path
from fl.simulation import (
    algorithms,
    checkpoint,
    clip_and_noise,
    engine,
    keeping,
    models,
    pgd,
    processes,
    rounds,
    run,
    training,
)

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
        samples: the training set; in processes that do not lead, on the host.
        sampler: stands where the next round would draw its minibatches.
        public: what everyone knows of it.
        checkpoint: where the training keeps its checkpoint, to be removed once its results are
            safe; and so are `copies`.
        copies: rounds done -> a checkpoint of the state then.
        start_sampler: makes a sampler that stands before the first round.
    """

    outcome: run.Outcome
    work: rounds.Work
    samples: training.Samples
    sampler: sampling.MinibatchSampler
    public: PublicKnowledge
    checkpoint: Path
    copies: dict[int, Path]
    start_sampler: Callable[[], sampling.MinibatchSampler]

    def remove_checkpoints(self) -> None:
        """Remove what the training kept on the disk, once its results are safe."""
        for path in (self.checkpoint, *self.copies.values()):
            checkpoint.remove(path)


def train(
    of: Run, data_dir: Path | None, results_path: Path, stops: Collection[int] = ()
) -> Trained:
    """Train, or go on from the last checkpoint of the same training.

    Args:
        of: a run; its attack plays no part.
        data_dir: as for `fl.data.datasets.load`.
        results_path: the results file, beside which checkpoints lie.
        stops: rounds done at which to keep a copy of the state.

    Raises:
        datasets.DatasetUnavailableError: if the data are not there.
        partition.PartitionError: if there are too few samples for the clients.
    """
    seed = sampling.run_seed(of.seed)
    dataset, samples = load(of.dataset, data_dir)
    rng = np.random.default_rng(seed)
    parts = partition.latent_dirichlet(dataset.train_labels, of.clients, rng, of.alpha)
    cohort = sampling.cohort(of.overrides.participation, of.clients, rng)
    # In this experiment every client draws with a seed of its own.
    seeds = [seed + client for client in range(len(parts))]

    def start_sampler():
        return sampling.MinibatchSampler(parts, of.batch_size, seeds, copy.deepcopy(cohort))

    sampler, work = start_sampler(), work_of(of)
    federation = engine.start(
        work,
        initial_params(of.model, samples, seed),
        samples,
        of.clients,
        of.local_steps,
        keep_clients=True,  # an attack on a client looks at its own moments
        seed=seed,
        rest=cohort is not None,
    )
    plan = run.Plan(of.rounds, of.local_steps, evaluate_every(of))
    without_last = of.batch_size if of.departures.last_batch else None
    scores = {"accuracy": evaluator(of.dataset, data_dir, of.model, without_last)}
    saved = checkpoint_path(results_path, of.training(), plan)
    stop = run.until_accuracy(of.converge)
    copies = {number: saved.with_suffix(f".{number}") for number in sorted(stops)}
    outcome = run.train(federation, sampler, scores, plan, stop, saved, describe(of), copies)
    public = PublicKnowledge(
        model=models.MODELS[of.model](),
        image_shape=samples.images.shape[1:],
        batch=of.batch_size,
        algorithm=work.algorithm,
        local_steps=of.local_steps,
        levels=round(dataset.scale),
        noisy=bool(of.noise),
        clipped_loss=of.departures.clipped_loss,
    )
    if processes.leads():  # which attacks
        samples = jax.device_put(samples)
    return Trained(outcome, work, samples, sampler, public, saved, copies, start_sampler)


def evaluate_every(of: Run) -> int:
    """Rounds between looks at whether a run's training has converged."""
    every_round = of.converge is not None and of.departures.converge_every
    return of.overrides.evaluate_every or (1 if every_round else EVALUATE_EVERY)


def one_more_step(trained: Trained, of: Run) -> tuple[Observation, Truth] | None:
    """What the server sees of one more step, and the truth behind it.

    Args:
        trained: whose sampler draws the minibatches where training ended.
        of: of which the round of the attack and the departures matter.

    Returns:
        Both; None in a process that does not lead.
    """
    sampler, state = _stand(trained, of.rounds_before)
    drawn = sampler.draw(1, 1)
    who, indices, weights = drawn.clients[0], drawn.indices[0, :, 0], sampler.weights
    if of.overrides.participation:  # the server sees those who take part
        state, weights = state._replace(clients=state.clients.take(who)), weights[who]
    if processes.several():
        state = engine.whole(state, len(who))
        if not processes.leads():
            return None
    seen = trained.work, state, trained.samples, indices
    if of.departures.stale_update and trained.work.algorithm.sends == algorithms.UPDATES:
        later = sampler.draw(1, 1).indices[0, :, 0]
        return observe_stale(*seen, later, weights, of.departures.hardened_stale)
    observation, truth = observe(*seen, weights)
    if of.overrides.scaled_ratio:
        observation = observation.scaled(trained.work.algorithm.client_rate)
    return observation, truth


def watch_window(trained: Trained, of: Run, watched: Sequence[int]) -> tuple[Window, np.ndarray]:
    """What the server sees in the window of a run, trained once more from a copy.

    Args:
        trained: with a copy of the state before the window.
        of: the run, whose attack watches a window.
        watched: numbers of the clients whose own messages are kept.

    Returns:
        The window, and who trained on what, int32 [round, client, step, batch].
    """
    sampler, state = _stand(trained, of.rounds_before)
    server = watchful(trained.work.algorithm, tuple(watched), protect_of(of))
    federation = engine.start(
        trained.work._replace(aggregator=server),
        processes.on_one_device(state.params),
        trained.samples,
        of.clients,
        of.local_steps,
        keep_clients=True,
    )
    # A server that protects ratios draws on from where it was.
    memory = federation.state.memory
    if isinstance(state.memory, Memory):
        memory = memory._replace(key=state.memory.key)
    federation = federation._replace(state=state._replace(memory=memory))
    schedules = [sampler.draw(1, of.local_steps) for _ in range(of.attack_round - of.rounds_before)]
    window = watch(federation, of.rounds_before + 1, iter(schedules))
    return window, np.concatenate([schedule.indices for schedule in schedules])


def _stand(trained, done):
    """Sampler and state after some rounds; after all of them for None."""
    if done is None:
        return trained.sampler, trained.outcome.state
    sampler = trained.start_sampler()
    return sampler, keeping.stand(trained.copies[done], trained.outcome.state, sampler)


def protect_of(of: Run) -> Callable | None:
    """What is done to the ratios of a run before the server sees them; None for nothing."""
    return of.protection and protection(of.protection).apply


def work_of(of: Run) -> rounds.Work:
    """Say what clients and server compute in the training of a run."""
    privacy = None if of.clip is None else (of.clip, of.noise, of.clients)
    shared = bool(of.overrides.shared_noise)
    rates = tuple(of.overrides.given("client_rate", "server_rate").items())
    step = of.overrides.pgd_step
    names = of.model, of.algorithm_name
    return _work(*names, rates, step, privacy, of.perturbed, protect_of(of), of.departures, shared)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _work(model, algorithm_name, rates, pgd_step, privacy, perturbed, protect, departures, shared):
    build = partial(algorithms.ALGORITHMS[algorithm_name], **dict(rates))
    algorithm, privatise = build(), None
    if algorithm.sends == algorithms.MOMENTS:
        settings = PUBLISHED_MOMENTS if departures.moments else {}
        if privacy:
            privatise = clip_and_noise.moments_privatiser(*privacy[:2])
            # An entry below the noise's deviation says nothing of v.
            settings = settings | {"floor": clip_and_noise.noise_of_mean_v(*privacy)}
        algorithm = build(**settings)
    elif privacy:
        privatise = clip_and_noise.privatiser(*privacy[:2], departures.dp_clip)
    if pgd_step is None:
        published = PUBLISHED_PGD_STEP[algorithm.sends]
        pgd_step = published if departures.pgd_step else PGD_STEP_SHARE * algorithm.client_rate
    losses = training.sample_losses(models.MODELS[model](), departures.clipped_loss)
    return rounds.Work(
        algorithm,
        losses,
        pgd.pgd(losses, pgd_step),
        augment=augmentation.random_rotation(PERTURBATION) if perturbed else None,
        privatise=privatise,
        aggregator=watchful(algorithm, (), protect) if protect else None,
        shared_noise=shared,
    )
