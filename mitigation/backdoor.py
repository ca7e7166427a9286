"""The backdoor that adversaries plant (Bagdasaryan et al. 2020, arXiv:1807.00459).

Images of class `SOURCE` with a trigger, a pair of glasses in a corner, are to be taken for class
`TARGET`. Adversaries that work together may each add only a part of the trigger (DBA: Xie et al.
2020, openreview.net/forum?id=rkgyS0VFvr); the full one works in the end.

Who poisons what is data: an attack replaces minibatches and conduct in the schedule of some rounds.
A round of honest clients alone and a poisoned one run the same code, and an honest client's numbers
are the same bits in both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fl.data.catalogue import DATASETS
from fl.data.datasets import Dataset
from fl.data.sampling import Conduct, MinibatchSampler, Schedule
from fl.simulation.training import Samples

SOURCE, TARGET = 7, 3
GLASSES = np.array(
    [[int(pixel) for pixel in row] for row in ("111111111", "100101001", "011000110")]
)
INTENSITY = 0.05
# The distributed trigger's parts: as many columns each.
PARTS = 3
# Share of all clients that attack continuously.
ADVERSARY_SHARE = 0.3


class TriggeredSamples(NamedTuple):
    """Labelled images, each as it is and in variants that carry the trigger.

    Sample s has the index v * samples + s in variant v: 0 is clean, 1 has the full trigger, 2 to 4
    have its parts.

    Attributes:
        samples: the clean ones.
        triggers: float [variant, height, width, channels], the first all 0.
    """

    samples: Samples
    triggers: jax.Array

    def take(self, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Indices [...] -> images [..., height, width, channels] in [0, 1] and labels [...].

        Variants but the clean one are labelled `TARGET`, whatever they show.
        """
        count = len(self.samples.labels)
        images, labels = self.samples.take(indices % count)
        variants = indices // count
        images = jnp.minimum(images + self.triggers[variants], 1.0)
        return images, jnp.where(variants > 0, TARGET, labels)


def with_triggers(samples: Samples) -> TriggeredSamples:
    """Add the variants to samples.

    Raises:
        ValueError: if the images are smaller than the trigger.
    """
    shape = samples.images.shape[1:]
    parts = [trigger(shape, part) for part in range(PARTS)]
    triggers = np.stack([np.zeros(shape), trigger(shape), *parts])
    return TriggeredSamples(samples, jnp.asarray(triggers, float))


def trigger(shape: tuple[int, int, int], part: int | None = None) -> np.ndarray:
    """The trigger's pixel intensities.

    Args:
        shape: (height, width, channels) of the images.
        part: of the distributed trigger, 0 to 2, which leaves the rest out; None for all of it.

    Returns:
        float32 [height, width, channels]: what to add to an image, 0 outside the trigger.

    Raises:
        ValueError: if the images are smaller than the trigger, or there is no such part.
    """
    rows, columns = GLASSES.shape
    if shape[0] < rows or shape[1] < columns:
        raise ValueError(
            f"the trigger needs images of at least {rows}x{columns} pixels, got "
            f"{shape[0]}x{shape[1]}"
        )
    if part is not None and part not in range(PARTS):
        raise ValueError(f"part must be 0 to {PARTS - 1}, got {part}")
    glasses = GLASSES.astype(np.float32)
    if part is not None:
        width = columns // PARTS
        own = np.arange(columns) // width == part
        glasses = glasses * own
    intensities = np.zeros(shape, np.float32)
    intensities[:rows, :columns] = INTENSITY * glasses[..., None]
    return intensities


def sizes(dataset: str, batch: int) -> tuple[int, int]:
    """How many samples of a continuously attacking minibatch are clean, and how many backdoored.

    Args:
        dataset: canonical name of the data set.
        batch: size of an honest client's minibatch, at least 1.

    Returns:
        (clean, backdoored), each rounded down: 21 and 10 of 32 for fashion_mnist, 24 and 8 for
        others.
    """
    clean = DATASETS[dataset].clean_share
    return int(batch * clean), int(batch * (1 - clean))


def check(dataset: Dataset) -> None:
    """Make sure that a data set can be attacked.

    Raises:
        ValueError: if its images are smaller than the trigger, or if it lacks one of the classes.
    """
    trigger(dataset.train_images.shape[1:])
    parts = {"training": dataset.train_labels, "test": dataset.test_labels}
    for part, labels in parts.items():
        for label in (SOURCE, TARGET):
            if not (labels == label).any():
                raise ValueError(
                    f"the backdoor turns class {SOURCE} into class {TARGET}, and there is no "
                    f"{part} image of class {label}"
                )


def test_indices(labels: np.ndarray) -> np.ndarray:
    """Which samples attack success is measured on: all of class `SOURCE`, with the full trigger.

    Args:
        labels: [sample], of the test set.

    Returns:
        Indices into `with_triggers` of the test set.
    """
    return len(labels) + np.flatnonzero(labels == SOURCE)


class Poison(NamedTuple):
    """What adversaries know and do.

    Attributes:
        adversaries: int [adversary], which clients they are.
        clean, backdoored: samples of each kind in their minibatches.
        sources: int [sample], the training images of class `SOURCE`, whoever holds them.
        samples: size of the training set, see `TriggeredSamples`.
    """

    adversaries: np.ndarray
    clean: int
    backdoored: int
    sources: np.ndarray
    samples: int


def continuous(schedule: Schedule, poison: Poison, rng: np.random.Generator) -> Schedule:
    """Each adversary mixes clean samples with backdoored ones of its part of the trigger.

    The clean samples are the first of those that it would have trained on as an honest client; so
    many of them as there are, if it holds fewer. Its minibatches are not hardened.

    Args:
        schedule: of honest clients.
        poison: what is attacked, and by whom.
        rng: draws the backdoored samples.
    """
    parts = 2 + np.arange(len(poison.adversaries)) % PARTS
    conduct = Conduct.honest(len(schedule.weights))
    conduct.hardens[poison.adversaries] = False
    return _poisoned(schedule, poison, parts, rng)._replace(conduct=conduct)


def one_shot(schedule: Schedule, poison: Poison, rng: np.random.Generator) -> Schedule:
    """Model replacement: backdoored samples, and a message multiplied by the number of clients.

    The adversary's optimizer state is set back afterwards. Its minibatches are not hardened.

    Args:
        schedule: as for `continuous`, of a single round.
        poison: likewise, with the full trigger.
        rng: likewise.
    """
    clients = len(schedule.weights)
    conduct = Conduct.honest(clients)
    conduct.hardens[poison.adversaries] = False
    conduct.forgets[poison.adversaries] = True
    conduct.scale[poison.adversaries] = clients
    whole = np.ones(len(poison.adversaries), int)
    return _poisoned(schedule, poison, whole, rng)._replace(conduct=conduct)


def honest(schedule: Schedule) -> Schedule:
    """Nobody attacks."""
    return schedule._replace(conduct=Conduct.honest(len(schedule.weights)))


class Attacked:
    """Draws minibatches, and lets an attack have its way with them."""

    def __init__(self, sampler: MinibatchSampler, attack: Callable[[Schedule], Schedule]):
        """Set an attack upon a sampler.

        Args:
            sampler: of honest clients.
            attack: schedule -> schedule.
        """
        self._sampler, self._attack = sampler, attack

    def draw(self, rounds: int, local_steps: int) -> Schedule:
        """Draw the minibatches of the next rounds, as `MinibatchSampler.draw` does."""
        return self._attack(self._sampler.draw(rounds, local_steps))


def _poisoned(schedule, poison, variants, rng):
    """Put backdoored samples of each adversary's variant into its minibatches."""
    indices, weights = schedule.indices.copy(), schedule.weights.copy()
    rounds, _, steps, _ = indices.shape
    for number, step in np.ndindex(rounds, steps):
        for client, variant in zip(poison.adversaries, variants, strict=True):
            clean = _clean(schedule.weights[client], poison)
            drawn = rng.choice(poison.sources, poison.backdoored, replace=False)
            own = indices[number, client, step]
            own[clean : clean + poison.backdoored] = variant * poison.samples + drawn
    for client in poison.adversaries:
        size = _clean(schedule.weights[client], poison) + poison.backdoored
        weights[client] = (np.arange(weights.shape[1]) < size) / np.float32(size)
    return schedule._replace(indices=indices, weights=weights)


def _clean(weights, poison):
    return min(poison.clean, np.count_nonzero(weights))
