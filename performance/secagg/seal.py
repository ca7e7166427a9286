"""Sums that the server adds up but cannot read, and cannot change: clients seal their vectors.

All clients add the same pad, expanded from the common secret, so that a sum over s survivors has
s pads on it, modulo 2^64. Where s is even, s pads say nothing of the sum's lowest bits: they are
left bare, as many as s has factors of 2. So vectors are shifted to the left first, by as many bits
as the number of clients has, and what is bare is zero whatever the vectors are.

A pad does not keep the server from adding to the sum what it likes, and so from having another
ratio formed that tells more. So each vector carries a tag, the sum of its entries times secret
factors modulo a prime. Tags add up as vectors do, and whoever opens a sum checks that its tag is
right; a server that lacks the factors gets past that with a probability of 2^-60. (This is a linear
universal hash as in Carter and Wegman, "New hash functions and their use in authentication and set
equality", 1981, used as a homomorphic authenticator; recalled.)
"""

import math
from typing import NamedTuple

import numpy as np

from secagg import masks
from secagg.records import ProtocolError

PRIME = 2**61 - 1
# A tag travels as four entries of 16 bits each, which leaves room for their sums.
LIMBS, LIMB_BITS = 4, 16
# With fewer bits for the shift a difference of two sums could be a multiple of the prime.
LEAST_SHIFT = 3
# Entries at a time: they stay in the cache, and sums of products of limbs are exact in float64.
BLOCK = 1 << 14


def shift(clients: int) -> int:
    """By how many bits vectors are shifted for this number of clients, at least 1."""
    return max(LEAST_SHIFT, math.ceil(math.log2(clients)))


class Seal(NamedTuple):
    """What it takes to seal vectors, and to open their sum: known to clients, not to the server.

    Attributes:
        pad_key: of the pad, `masks.KEY_BYTES` bytes.
        tag_key: of the factors of the tags, another one.
        round_number: in which it is used, and in no other.
        clients: n, those that may take part.
    """

    pad_key: bytes
    tag_key: bytes
    round_number: int
    clients: int

    def close(self, vector: np.ndarray) -> np.ndarray:
        """Seal a vector.

        Args:
            vector: uint64 [entries], signed integers modulo 2^64, of which sums over all clients
                lie within 2^(62 - `shift`).

        Returns:
            uint64 [entries + `LIMBS`].
        """
        tag = self._tag(vector.view(np.int64))
        limbs = [tag >> LIMB_BITS * place & (1 << LIMB_BITS) - 1 for place in range(LIMBS)]
        sealed = np.append(vector, np.array(limbs, np.uint64))
        sealed <<= np.uint64(shift(self.clients))
        masks.add(sealed, self.pad_key, self.round_number)
        return sealed

    def open(self, total: np.ndarray, survivors: int) -> np.ndarray:
        """Open a sum of sealed vectors.

        Args:
            total: uint64 [entries + `LIMBS`].
            survivors: how many vectors are in it.

        Returns:
            uint64 [entries], the sum of the vectors, signed integers modulo 2^64.

        Raises:
            ProtocolError: if it is not the sum of so many vectors.
        """
        bits = np.uint64(shift(self.clients))
        pad = masks.expand(self.pad_key, self.round_number, len(total))
        opened = total - np.uint64(survivors) * pad
        whole = not (opened & ((np.uint64(1) << bits) - np.uint64(1))).any()
        signed = opened.view(np.int64) >> bits.astype(np.int64)
        sum_, limbs = signed[:-LIMBS], signed[-LIMBS:].tolist()
        tag = sum(limb << LIMB_BITS * place for place, limb in enumerate(limbs))
        if not whole or tag % PRIME != self._tag(sum_):
            raise ProtocolError("the sum is not that of the survivors' vectors: it was altered")
        return sum_.view(np.uint64)

    def _tag(self, numbers):
        """Sum of int64 numbers times secret factors, modulo the prime."""
        factors = masks.expand(self.tag_key, self.round_number, len(numbers)) >> np.uint64(3)
        products = np.zeros((LIMBS, LIMBS), np.int64)
        for start in range(0, len(numbers), BLOCK):
            part = numbers[start : start + BLOCK]
            residues = np.where(part < 0, part + PRIME, part)
            block = _limbs(residues).T @ _limbs(factors[start : start + BLOCK])
            products += block.astype(np.int64)
        whole = (
            int(product) << LIMB_BITS * (row + column)
            for (row, column), product in np.ndenumerate(products)
        )
        return sum(whole) % PRIME


def _limbs(numbers):
    """64-bit integers [entry], not negative -> float64 [entry, limb], the lowest first."""
    return numbers.astype("<u8", copy=False).view("<u2").reshape(-1, LIMBS).astype(np.float64)
