"""Which samples each client trains on: minibatch schedules drawn on the host."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


def run_seed(seed: int) -> int:
    """Seed of a run from its number: `round(seed * pi) + 500`, as in the paper's experiments."""
    return round(seed * math.pi) + 500


class Schedule(NamedTuple):
    """What clients do in some rounds.

    Attributes:
        clients: int32 [round, cohort], who takes part in each round, in ascending order.
        indices: int32 [round, cohort, step, batch], into the training set. Clients that hold fewer
            samples than a batch have it filled up with their first sample, at weight 0.
        weights: float32 [client, batch], of all clients. A client's loss is the weighted sum over
            its minibatch: 1 / min(batch, held) for samples, 0 for filling.
        deviates: bool [client], who deviates from the protocol in these rounds, as the work of the
            federation says; None for nobody.
    """

    clients: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    deviates: np.ndarray | None = None


class MinibatchSampler:
    """Draws every client's minibatches with the client's own generator.

    A minibatch is drawn without replacement from the client's own samples, min(batch, held) of
    them; the next one starts from all of them again.
    """

    def __init__(self, parts: Sequence[np.ndarray], batch_size: int, seeds: Sequence[int]):
        """Set up the generators.

        Args:
            parts: the indices that each client holds, [client][held]; none empty.
            batch_size: samples in a minibatch, at least 1.
            seeds: the seed of each client's generator, [client].

        Raises:
            ValueError: for a client without samples or a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        empty = [client for client, part in enumerate(parts) if len(part) == 0]
        if empty:
            raise ValueError(f"client {empty[0]} holds no samples")
        self._parts = [np.asarray(part, np.int32) for part in parts]
        self._batch_size = batch_size
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        sizes = np.minimum(batch_size, [len(part) for part in parts])
        filled = np.arange(batch_size) < sizes[:, None]
        self.weights = (filled / sizes[:, None]).astype(np.float32)

    def draw(
        self, rounds: int, local_steps: int, sizes: Mapping[int, int] | None = None
    ) -> Schedule:
        """Draw the minibatches of the next rounds, `local_steps` a round for each client.

        Args:
            rounds: how many.
            local_steps: of a client in a round.
            sizes: client -> samples to draw at most; the rest of its minibatch is for the caller to
                fill, and to weigh.
        """
        sizes = sizes or {}
        shape = (rounds, len(self._parts), local_steps, self._batch_size)
        indices = np.empty(shape, np.int32)
        for client, (part, rng) in enumerate(zip(self._parts, self._generators, strict=True)):
            size = min(sizes.get(client, self._batch_size), len(part))
            indices[:, client] = part[0]
            for number, step in np.ndindex(rounds, local_steps):
                drawn = part[rng.choice(len(part), size, replace=False)]
                indices[number, client, step, :size] = drawn
        everyone = np.arange(len(self._parts), dtype=np.int32)
        return Schedule(np.tile(everyone, (rounds, 1)), indices, self.weights)
