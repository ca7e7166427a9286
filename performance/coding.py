"""Clients' messages as integers that secure aggregation adds up, and what the server gets of them.

Updates, of which the server gets the mean; and SecAdam's moments, of which it is to get the ratio
mean(m) / sqrt(mean(v)) alone. With `COMMITTEE` the sums are sealed, and a committee of clients
forms the ratio. With `MASKED` clients send q m and q^2 v, and the server forms it, in which q
cancels; but it sees the two sums, and q wears off over rounds.
"""

from typing import Any

import jax
import numpy as np
from secagg import masks, seal
from secagg.quantise import Quantiser

from fl.simulation.algorithms import Moments

PyTree = Any

# Who forms the ratio of SecAdam's moments: a committee of clients, or the server.
COMMITTEE, MASKED = "committee", "masked"
# The clip ranges: of an update, of m, and of v. On Fashion-MNIST a few hundred of 1.6e10 entries
# lie beyond; a wider range would round small second moments, of which there are many more.
UPDATE_CLIP, M_CLIP, V_CLIP = 4.0, 4.0, 1.0


def code(messages: PyTree, clients: int, number: int, ratio: str) -> "Coded":
    """Messages as integers.

    Args:
        messages: of all clients, stacked [client, ...].
        clients: n.
        number: of the round.
        ratio: `COMMITTEE` or `MASKED`, for moments.
    """
    if not isinstance(messages, Moments):
        return Updates(messages, clients)
    if ratio == MASKED:
        return MaskedMoments(messages, clients, number)
    return SealedMoments(messages, clients)


class Coded:
    """The messages of a round.

    Attributes:
        entries: length of a client's vector.
        clipped: how many entries so far lay beyond the clip range.
        common: whether clients need a common secret for it.
        sealed: whether sums are to be sealed.
    """

    common, sealed = False, False

    def __init__(self, parts, quantisers):
        """Take the parts of a message, which are stacked [client, ...], with a quantiser each."""
        self._rows, unravel = zip(*map(_rows, parts), strict=True)
        self._unravel, self._quantisers = unravel[0], quantisers
        self.entries = sum(rows.shape[1] for rows in self._rows)
        self.clipped = 0

    def vector(self, client: int, common: bytes | None) -> np.ndarray:
        """What a client contributes, uint64 [entries].

        Args:
            client: which.
            common: the key that clients have in common, or None.
        """
        numbers = self._numbers([rows[client] for rows in self._rows], common)
        found = [q.quantise(part) for q, part in zip(self._quantisers, numbers, strict=True)]
        self.clipped += sum(each.clipped for each in found)
        return np.concatenate([each.values for each in found])

    @property
    def diverged(self) -> bool:
        """Whether there is anything that is not a number."""
        return any(bool(np.isnan(rows).any()) for rows in self._rows)

    def _numbers(self, parts, common):
        return parts

    def _means(self, total, survivors):
        """The mean of each part, float64 [entry]."""
        parts = np.split(total, len(self._rows))
        return [
            quantiser.restore(part) / survivors
            for quantiser, part in zip(self._quantisers, parts, strict=True)
        ]


class Updates(Coded):
    """Updates: the server gets their mean."""

    def __init__(self, messages: PyTree, clients: int):
        """Take messages of all clients, stacked."""
        super().__init__([messages], [Quantiser.for_sum(UPDATE_CLIP, clients)])

    def mean(self, total: np.ndarray, survivors: int, _: bytes) -> PyTree:
        """The mean message, from the sum over survivors."""
        return self._unravel(*self._means(total, survivors))

    def none(self) -> PyTree:
        """In place of a mean where there is none."""
        return self._unravel(np.full(self.entries, np.nan))


class _CodedMoments(Coded):
    """SecAdam's moments, m and then v."""

    common = True

    def none(self) -> Moments:
        """In place of means where there are none."""
        nothing = self._unravel(np.full(self.entries // 2, np.nan))
        return Moments(nothing, nothing)

    def _means(self, total, survivors):
        m, v = super()._means(total, survivors)
        # Second moments below half a unit are lost: where nothing is known, no step is taken.
        lost = v <= 0
        return np.where(lost, 0, m), np.where(lost, 1, v)


class MaskedMoments(_CodedMoments):
    """q m and q^2 v, with factors q that clients have in common: the server gets the two means."""

    def __init__(self, messages: Moments, clients: int, number: int):
        """Take messages of all clients, stacked, of the round of that number."""
        # q is less than 2^SPAN.
        clips = M_CLIP * 2**masks.SPAN, V_CLIP * 4**masks.SPAN
        super().__init__(messages, [Quantiser.for_sum(clip, clients) for clip in clips])
        self._number = number
        self._q = None, None  # the clients', expanded once instead of by each of them

    def mean(self, total: np.ndarray, survivors: int, _: bytes) -> Moments:
        """The means of q m and q^2 v, whose ratio is the one that the server steps along."""
        return Moments(*map(self._unravel, self._means(total, survivors)))

    def _numbers(self, parts, common):
        if common != self._q[0]:
            self._q = common, masks.positive(common, self._number, self.entries // 2)
        (m, v), q = parts, self._q[1]
        return q * m, q * q * v


class SealedMoments(_CodedMoments):
    """m and v, of whose means a committee forms the ratio: the server gets nothing else."""

    sealed = True

    def __init__(self, messages: Moments, clients: int):
        """Take messages of all clients, stacked."""
        clips, spare = (M_CLIP, V_CLIP), seal.shift(clients)
        super().__init__(messages, [Quantiser.for_sum(clip, clients, spare) for clip in clips])

    def finish(self, total: np.ndarray, survivors: int) -> bytes:
        """What a member of the committee makes of the opened sum: the ratio, in float32."""
        m, v = (part.astype(np.float32) for part in self._means(total, survivors))
        return (m / np.sqrt(v)).astype("<f4", copy=False).tobytes()

    def mean(self, _: np.ndarray, __: int, answer: bytes) -> Moments:
        """Moments with the ratio that the committee answered."""
        ratio = np.frombuffer(answer, "<f4")
        return Moments(self._unravel(ratio), self._unravel(np.ones(len(ratio))))


def _rows(stacked):
    """Pytrees stacked [client, ...] -> (float64 [client, entry], entries -> one pytree)."""
    leaves, structure = jax.tree.flatten(stacked)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]

    def unravel(entries):
        parts = np.split(entries, ends)
        return structure.unflatten(
            part.reshape(leaf.shape[1:]).astype(leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        )

    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    return rows.astype(np.float64), unravel
