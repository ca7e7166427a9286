"""Clients of whom only some take part in a round: what the others keep rests on the host.

For each round, what the clients of its cohort keep goes to the device, and back when it is over.
So a device holds the states of one cohort however many clients there are, and the host those of
the clients that ever took part, in rows that lie together: writing to scattered places of a large
array would make a page of memory of each, of 2 MB where the system has such.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any


class Packed(NamedTuple):
    """The clients that ever took part, as a checkpoint holds them.

    Attributes:
        clients: int64 [row], their numbers.
        states: a pytree of NumPy arrays stacked [row, ...].
    """

    clients: np.ndarray
    states: PyTree


class Resting:
    """What all clients keep, on the host."""

    def __init__(self, first: PyTree, count: int):
        """Clients that are all in one state.

        Args:
            first: what a client keeps before its first round.
            count: number of clients.
        """
        self._first = jax.tree.map(np.asarray, first)
        self._places = np.full(count, -1, np.int64)  # rows of the clients, -1 for none yet
        self._clients = np.empty(0, np.int64)
        self._states = jax.tree.map(
            lambda leaf: np.empty((0, *leaf.shape), leaf.dtype), self._first
        )
        self._used = 0

    def take(self, clients: np.ndarray) -> PyTree:
        """The states of some clients, stacked, in their order."""
        places = self._places[clients]

        def rows(leaf, first):
            taken = np.empty((len(places), *first.shape), first.dtype)
            taken[places < 0] = first
            taken[places >= 0] = leaf[places[places >= 0]]
            return taken

        return jax.tree.map(rows, self._states, self._first)

    def everybody(self) -> PyTree:
        """The states of all clients, stacked [client, ...]."""
        return self.take(np.arange(len(self._places)))

    def put(self, clients: np.ndarray, states: PyTree) -> None:
        """Keep the states of some clients, stacked in their order."""
        new = clients[self._places[clients] < 0]
        rows = slice(self._used, self._used + len(new))
        self._make_room(rows.stop)
        self._clients[rows] = new
        self._places[new] = np.arange(rows.start, rows.stop)
        self._used = rows.stop
        places = self._places[clients]
        for leaf, own in zip(*map(jax.tree.leaves, (self._states, states)), strict=True):
            leaf[places] = own

    def packed(self) -> Packed:
        """Those who ever took part."""
        used = slice(self._used)
        return Packed(self._clients[used], jax.tree.map(lambda leaf: leaf[used], self._states))

    def unpacked(self, packed: Packed) -> "Resting":
        """As many clients as these, in the states of what was packed."""
        clients = Resting(self._first, len(self._places))
        clients.put(packed.clients, packed.states)
        return clients

    def copied(self) -> "Resting":
        """A copy that stays as it is when rounds go on from this one."""
        return self.unpacked(self.packed())

    def _make_room(self, count):
        """Let so many rows fit, of which there are twice as many each time that they do not."""
        if count <= len(self._clients):
            return
        size = min(max(count, 2 * len(self._clients)), len(self._places))

        def longer(leaf):
            return np.concatenate([leaf, np.empty((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])

        self._clients = longer(self._clients)
        self._states = jax.tree.map(longer, self._states)
