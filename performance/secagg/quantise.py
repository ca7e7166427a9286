"""Real numbers as integers modulo 2^64, whose sums over clients are exact.

A number x becomes the integer nearest to x 2^bits (of two, the even one). Numbers beyond the clip
range are brought to its ends, and counted. Only so many bits are kept behind the point that no sum
over all clients leaves the signed 64-bit range: sums never wrap.
"""

import math
from typing import NamedTuple

import numpy as np

MODULUS_BITS = 64


class Quantised(NamedTuple):
    """Integers modulo 2^64, and what was lost.

    Attributes:
        values: uint64 [entry].
        clipped: how many entries lay beyond the clip range.
    """

    values: np.ndarray
    clipped: int


class Quantiser(NamedTuple):
    """A fixed-point format.

    Attributes:
        clip: entries lie in [-clip, clip].
        bits: behind the binary point; negative where the clip is large.
    """

    clip: float
    bits: int

    @classmethod
    def for_sum(cls, clip: float, clients: int, spare: int = 0) -> "Quantiser":
        """The finest format in which a sum over clients fits.

        Args:
            clip: above 0.
            clients: how many numbers are added up, at least 1.
            spare: bits that are left free besides.

        Raises:
            ValueError: for a clip or a number of clients out of range.
        """
        if not (clip > 0 and math.isfinite(clip)):
            raise ValueError(f"clip must be above 0, got {clip}")
        if clients < 1:
            raise ValueError(f"clients must be at least 1, got {clients}")
        # clients * clip * 2^bits is at most 2^(62 - spare): a factor of 2 is left for rounding.
        taken = math.ceil(math.log2(clients)) + math.ceil(math.log2(clip)) + spare
        return cls(clip, MODULUS_BITS - 2 - taken)

    def quantise(self, numbers: np.ndarray) -> Quantised:
        """Turn numbers into integers.

        Args:
            numbers: float [entry].

        Raises:
            ValueError: if one is not a number.
        """
        numbers = np.asarray(numbers, np.float64)
        if np.isnan(numbers).any():
            raise ValueError("cannot send what is not a number: has training diverged?")
        inside = np.clip(numbers, -self.clip, self.clip)
        clipped = int(np.count_nonzero(inside != numbers))
        # Scaling by a power of two is exact.
        integers = np.rint(np.ldexp(inside, self.bits)).astype(np.int64)
        return Quantised(integers.view(np.uint64), clipped)

    def restore(self, total: np.ndarray) -> np.ndarray:
        """Turn a sum of quantised numbers, uint64 [entry], back into float64."""
        return np.ldexp(total.view(np.int64).astype(np.float64), -self.bits)

    def error(self, clients: int) -> float:
        """By how much a restored sum is off at most, where nothing was clipped.

        Half a unit for each client, and the rounding of the sum to float64.
        """
        unit = math.ldexp(1.0, -self.bits)
        return clients * (unit / 2 + self.clip * np.finfo(np.float64).eps)
