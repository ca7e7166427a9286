"""Which samples each client trains on: minibatch schedules drawn on the host."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fl.data import generators


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


class Cohort(NamedTuple):
    """Who takes part in a round: so many clients, drawn without replacement.

    Attributes:
        size: how many, from 1 to the number of all clients.
        rng: draws them, anew for every round.
    """

    size: int
    rng: np.random.Generator

    def draw(self, rounds: int, clients: int) -> np.ndarray:
        """Numbers of those in each of some rounds, of so many clients: int32 [round, size]."""
        drawn = [self.rng.choice(clients, self.size, replace=False) for _ in range(rounds)]
        return np.sort(np.array(drawn, np.int32).reshape(rounds, self.size), axis=1)


def cohort_size(share: float | None, clients: int) -> int:
    """How many clients of so many are in a round: a fraction, rounded, at least one."""
    return clients if share is None else max(1, round(share * clients))


def cohort(share: float | None, clients: int, rng: np.random.Generator) -> Cohort | None:
    """The cohort of a fraction of the clients, see `cohort_size`; None for all of them.

    Args:
        share: above 0 and below 1; None for all.
        clients: how many there are.
        rng: draws them.
    """
    return None if share is None else Cohort(cohort_size(share, clients), rng)


class MinibatchSampler:
    """Draws who takes part, and every such client's minibatches with the client's own generator.

    A minibatch is drawn without replacement from the client's own samples, min(batch, held) of
    them; the next one starts from all of them again.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray],
        batch_size: int,
        seeds: Sequence[int],
        cohort: Cohort | None = None,
    ):
        """Set up the generators.

        Args:
            parts: the indices that each client holds, [client][held]; none empty.
            batch_size: samples in a minibatch, at least 1.
            seeds: the seed of each client's generator, [client].
            cohort: who takes part in a round; None for everybody.

        Raises:
            ValueError: for a client without samples or a seed, or a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        if len(seeds) != len(parts):
            raise ValueError(f"{len(parts)} clients need a seed each, got {len(seeds)}")
        sizes = np.fromiter(map(len, parts), int, len(parts))
        if not sizes.all():
            raise ValueError(f"client {sizes.argmin()} holds no samples")
        self._parts, self._batch_size, self._seeds = parts, batch_size, seeds
        self._cohort = cohort
        self._generators = {}  # of the clients that ever took part
        sizes = np.minimum(batch_size, sizes)
        filled = np.arange(batch_size) < sizes[:, None]
        self.weights = (filled / sizes[:, None]).astype(np.float32)

    def draw(
        self, rounds: int, local_steps: int, sizes: Mapping[int, int] | None = None
    ) -> Schedule:
        """Draw the minibatches of the next rounds, `local_steps` a round for each client in it.

        Args:
            rounds: how many.
            local_steps: of a client in a round.
            sizes: client -> samples to draw at most; the rest of its minibatch is for the caller to
                fill, and to weigh.
        """
        sizes, count = sizes or {}, len(self._parts)
        everyone = np.arange(count, dtype=np.int32)
        if self._cohort is None:
            clients = np.tile(everyone, (rounds, 1))
        else:
            clients = self._cohort.draw(rounds, count)
        indices = np.empty((*clients.shape, local_steps, self._batch_size), np.int32)
        for (number, place), client in np.ndenumerate(clients):
            part, rng = self._parts[client], self._generator(int(client))
            size = min(sizes.get(client, self._batch_size), len(part))
            indices[number, place] = part[0]
            for step in range(local_steps):
                drawn = part[rng.choice(len(part), size, replace=False)]
                indices[number, place, step, :size] = drawn
        return Schedule(clients, indices, self.weights)

    def state(self) -> dict[str, np.ndarray]:
        """Where the generators stand, for `restore`; arrays may grow along their first axis."""
        numbers = sorted(self._generators)
        own = generators.states([self._generators[number] for number in numbers])
        return {
            "clients": np.array(numbers, np.int64),
            "generators": own,
            "cohorts": generators.states([self._cohort.rng] if self._cohort else []),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from where another sampler of the same arguments stood."""
        self._generators = {}
        own = [self._generator(int(client)) for client in state["clients"]]
        generators.restore(own, state["generators"])
        generators.restore([self._cohort.rng] if self._cohort else [], state["cohorts"])

    def _generator(self, client):
        if client not in self._generators:
            self._generators[client] = np.random.default_rng(self._seeds[client])
        return self._generators[client]
