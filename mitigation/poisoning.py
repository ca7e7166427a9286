"""Poisoned minibatches: adversaries train on backdoored samples in place of their own.

Who poisons what is data: it replaces minibatches in the schedule of some rounds. Rounds of honest
clients alone and poisoned ones run the same code, and an honest client's numbers are the same bits
in both.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from backdoor import FIRST_PART, PARTS, SOURCE, WHOLE

from fl.data import generators
from fl.data.catalogue import DATASETS
from fl.data.sampling import MinibatchSampler, Schedule


class Poison(NamedTuple):
    """What adversaries put into their minibatches.

    Attributes:
        adversaries: int [adversary], which clients they are.
        variants: int [adversary], the trigger of each, see `backdoor.TriggeredSamples`.
        clean: int [adversary], samples of its own that stay in its minibatch, at most.
        backdoored: int [adversary], samples that carry its trigger.
        sources: int [sample], the training images of the class that gets the trigger, whoever holds
            them.
        samples: size of the training set.
        own_draws: whether adversaries draw no more than their clean samples with the generators
            that they have as honest clients, as in the published code.
    """

    adversaries: np.ndarray
    variants: np.ndarray
    clean: np.ndarray
    backdoored: np.ndarray
    sources: np.ndarray
    samples: int
    own_draws: bool = False


def poison(
    labels: np.ndarray,
    clients: int,
    variant: Callable,
    sizes: Sequence[tuple[int, int]],
    own_draws: bool = False,
) -> Poison:
    """Let the last clients be adversaries.

    Args:
        labels: [sample], of the training set.
        clients: how many there are.
        variant: number of an adversary -> variant of its images.
        sizes: [adversary] clean and backdoored samples of its minibatch. There are no more of the
            latter than images of the source.
        own_draws: see `Poison`.
    """
    sources = np.flatnonzero(labels == SOURCE)
    clean, backdoored = np.array(sizes, int).reshape(-1, 2).T
    return Poison(
        adversaries=last_clients(clients, len(sizes)),
        variants=np.array([variant(number) for number in range(len(sizes))], int),
        clean=clean,
        backdoored=np.minimum(backdoored, len(sources)),
        sources=sources,
        samples=len(labels),
        own_draws=own_draws,
    )


def last_clients(clients: int, count: int) -> np.ndarray:
    """Numbers of the last clients, int [client], who are the adversaries."""
    return np.arange(clients - count, clients)


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
        rngs: Sequence[np.random.Generator] = (),
        unhardened: np.ndarray | None = None,
    ):
        """Set adversaries upon a sampler.

        Args:
            sampler: of honest clients.
            poison: what adversaries put into their minibatches; None where nobody attacks.
            rngs: [adversary], draw the backdoored samples; it may be the same for all.
            unhardened: numbers of the clients that do not harden where nobody attacks; None for
                none.
        """
        self._sampler, self._poison, self._rngs = sampler, poison, rngs
        self._unhardened = [] if unhardened is None else unhardened

    def draw(self, rounds: int, local_steps: int) -> Schedule:
        """Draw the minibatches of the next rounds, as `MinibatchSampler.draw` does.

        The clean samples are the first of those that an adversary would have trained on as an
        honest client: as many of them as there are, if it holds fewer. With `Poison.own_draws` it
        draws them alone.
        """
        poison, most = self._poison, None
        if poison and poison.own_draws:
            most = dict(zip(poison.adversaries, poison.clean, strict=True))
        schedule = self._sampler.draw(rounds, local_steps, most)
        deviates = np.zeros(len(schedule.weights), bool)
        if poison is None:
            deviates[self._unhardened] = True  # and do all else as honest clients
            return schedule._replace(deviates=deviates)
        deviates[poison.adversaries] = True
        held = np.count_nonzero(schedule.weights[poison.adversaries], axis=1)
        clean = np.minimum(poison.clean, held)
        # Of a single sample, both parts round down to nothing: it stays clean.
        sizes = np.maximum(clean + poison.backdoored, 1)
        numbers = {client: number for number, client in enumerate(poison.adversaries)}
        indices, weights = schedule.indices.copy(), schedule.weights.copy()
        for at, step in np.ndindex(rounds, local_steps):
            for place, client in enumerate(schedule.clients[at]):
                if deviates[client]:
                    own = numbers[client]
                    count = poison.backdoored[own]
                    drawn = self._rngs[own].choice(poison.sources, count, replace=False)
                    backdoored = poison.variants[own] * poison.samples + drawn
                    indices[at, place, step, clean[own] : sizes[own]] = backdoored
        for client, size in zip(poison.adversaries, sizes, strict=True):
            weights[client] = (np.arange(weights.shape[1]) < size) / np.float32(size)
        return schedule._replace(indices=indices, weights=weights, deviates=deviates)

    def state(self) -> dict:
        """Where the generators stand, for `restore`, as of `MinibatchSampler`."""
        return {"honest": self._sampler.state(), "poison": generators.states(self._drawing())}

    def restore(self, state: dict) -> None:
        """Go on from where another one of the same arguments stood."""
        self._sampler.restore(state["honest"])
        generators.restore(self._drawing(), state["poison"])

    def _drawing(self):
        """The adversaries' generators, each once."""
        return list({id(rng): rng for rng in self._rngs}.values())
