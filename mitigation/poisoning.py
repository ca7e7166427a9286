"""Poisoned minibatches: adversaries train on backdoored samples in place of their own.

Who poisons what is data: it replaces minibatches in the schedule of some rounds. Rounds of honest
clients alone and poisoned ones run the same code, and an honest client's numbers are the same bits
in both.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from backdoor import FIRST_PART, PARTS, SOURCE, WHOLE

from fl.data.catalogue import DATASETS
from fl.data.sampling import MinibatchSampler, Schedule


class Poison(NamedTuple):
    """What adversaries put into their minibatches.

    Attributes:
        adversaries: int [adversary], which clients they are.
        variants: int [adversary], the trigger of each, see `backdoor.TriggeredSamples`.
        clean: samples of an adversary's own that stay in its minibatch, at most.
        backdoored: samples that carry its trigger.
        sources: int [sample], the training images of the class that gets the trigger, whoever holds
            them.
        samples: size of the training set.
    """

    adversaries: np.ndarray
    variants: np.ndarray
    clean: int
    backdoored: int
    sources: np.ndarray
    samples: int


def poison(
    labels: np.ndarray, clients: int, adversaries: int, variant: Callable, sizes: tuple[int, int]
) -> Poison:
    """Let the last clients be adversaries.

    Args:
        labels: [sample], of the training set.
        clients: how many there are.
        adversaries: how many of them attack, at most all.
        variant: number of an adversary -> variant of its images.
        sizes: clean and backdoored samples of a minibatch. There are no more of the latter than
            images of the source.
    """
    sources = np.flatnonzero(labels == SOURCE)
    clean, backdoored = sizes
    return Poison(
        adversaries=np.arange(clients - adversaries, clients),
        variants=np.array([variant(number) for number in range(adversaries)], int),
        clean=clean,
        backdoored=min(backdoored, len(sources)),
        sources=sources,
        samples=len(labels),
    )


def whole_trigger(number: int) -> int:
    """Variant of the images of an adversary that has the trigger to itself."""
    return WHOLE


def part_of_trigger(number: int) -> int:
    """Variant of the images of an adversary that shares the trigger with others (DBA)."""
    return FIRST_PART + number % PARTS


def all_backdoored(dataset: str, batch_size: int) -> tuple[int, int]:
    """How many samples of a minibatch are clean, and how many backdoored: all of them.

    Args:
        dataset: a key of `fl.data.catalogue.DATASETS`.
        batch_size: of an honest client, at least 1.
    """
    return 0, batch_size


def mixed(dataset: str, batch_size: int) -> tuple[int, int]:
    """How many samples of a minibatch are clean, and how many backdoored, each rounded down.

    Args:
        dataset: a key of `fl.data.catalogue.DATASETS`, whose entry says the clean share.
        batch_size: of an honest client, at least 1.

    Returns:
        21 and 10 of 32 for fashion_mnist, 24 and 8 for others.
    """
    share = DATASETS[dataset].clean_share
    return int(batch_size * share), int(batch_size * (1 - share))


class AdversarialSampler:
    """Draws clients' minibatches, and poisons those of adversaries."""

    def __init__(
        self,
        sampler: MinibatchSampler,
        poison: Poison | None = None,
        rng: np.random.Generator | None = None,
    ):
        """Set adversaries upon a sampler.

        Args:
            sampler: of honest clients.
            poison: what adversaries put into their minibatches; None where nobody attacks.
            rng: draws the backdoored samples.
        """
        self._sampler, self._poison, self._rng = sampler, poison, rng

    def draw(self, rounds: int, local_steps: int) -> Schedule:
        """Draw the minibatches of the next rounds, as `MinibatchSampler.draw` does.

        The clean samples are the first of those that an adversary would have trained on as an
        honest client: as many of them as there are, if it holds fewer.
        """
        schedule, poison = self._sampler.draw(rounds, local_steps), self._poison
        deviates = np.zeros(len(schedule.weights), bool)
        if poison is None:
            return schedule._replace(deviates=deviates)
        deviates[poison.adversaries] = True
        variants = dict(zip(poison.adversaries, poison.variants, strict=True))
        clean = np.minimum(poison.clean, np.count_nonzero(schedule.weights, axis=1))
        indices, weights = schedule.indices.copy(), schedule.weights.copy()
        for number, step in np.ndindex(rounds, local_steps):
            for place, client in enumerate(schedule.clients[number]):
                if deviates[client]:
                    drawn = self._rng.choice(poison.sources, poison.backdoored, replace=False)
                    poisoned = slice(clean[client], clean[client] + poison.backdoored)
                    backdoored = variants[client] * poison.samples + drawn
                    indices[number, place, step, poisoned] = backdoored
        for client in poison.adversaries:
            size = clean[client] + poison.backdoored
            weights[client] = (np.arange(weights.shape[1]) < size) / np.float32(size)
        return schedule._replace(indices=indices, weights=weights, deviates=deviates)
