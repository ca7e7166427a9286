"""Clients of whom only some take part in a round: what the others keep rests on the host.

For each round, what the clients of its cohort keep goes to the device, and back when it is over.
So a device holds the states of one cohort however many clients there are, and the host those of
the clients that ever took part: memory that NumPy has of the system is not used until it is
written to.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any


class Resting(NamedTuple):
    """What all clients keep, on the host.

    Attributes:
        states: a pytree of NumPy arrays stacked [client, ...], written to in place.
        awoken: bool [client], who ever took part; the others are as they started.
        first: what one of them starts with.
    """

    states: PyTree
    awoken: np.ndarray
    first: PyTree

    def take(self, clients: np.ndarray) -> PyTree:
        """The states of some clients, stacked, in their order."""
        return jax.tree.map(lambda leaf: leaf[clients], self.states)

    def put(self, clients: np.ndarray, states: PyTree) -> None:
        """Keep the states of some clients, stacked in their order."""
        for leaf, new in zip(*map(jax.tree.leaves, (self.states, states)), strict=True):
            leaf[clients] = new
        self.awoken[clients] = True

    def packed(self) -> "Resting":
        """The same without those who never took part, for a checkpoint."""
        numbers = np.flatnonzero(self.awoken)
        return Resting(self.take(numbers), numbers, self.first)

    def unpacked(self, packed: "Resting") -> "Resting":
        """As many clients as these, in the states of what was packed."""
        clients = start(self.first, len(self.awoken))
        clients.put(packed.awoken, packed.states)
        return clients

    def copied(self) -> "Resting":
        """A copy that stays as it is when rounds go on from this one."""
        return self.unpacked(self.packed())


def start(state: PyTree, count: int) -> Resting:
    """Clients that are all in one state.

    Args:
        state: what a client keeps before its first round.
        count: number of clients.
    """

    def repeated(leaf):
        rows = np.zeros((count, *leaf.shape), leaf.dtype)
        if leaf.any():
            rows[:] = leaf
        return rows

    first = jax.tree.map(np.asarray, state)
    return Resting(jax.tree.map(repeated, first), np.zeros(count, bool), first)
