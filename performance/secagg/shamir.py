"""Shamir's secret sharing: any t shares give the secret, fewer say nothing of it.

Shamir 1979, "How to share a secret". A secret is the constant term of a random polynomial of degree
t - 1 over a prime field; a share is the polynomial's value at a point other than 0.
"""

import itertools
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from secagg.decoding import decode, evaluate, inverses

# The smallest prime that leaves room for every 256-bit secret.
PRIME = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
# So many points or differences of points, multiplied, lie within 63 bits.
MOST_POINT, FACTORS = 1 << 20, 3


class ShareError(ValueError):
    """Shares that give no secret."""


def split(
    secret: bytes,
    threshold: int,
    points: Iterable[int],
    draw: Callable[[int], int] = secrets.randbelow,
) -> dict[int, bytes]:
    """Share a secret.

    Args:
        secret: `SECRET_BYTES` bytes.
        threshold: t, how many shares give the secret; at least 1, at most one for each point.
        points: where the polynomial is evaluated, distinct and from 1 to `MOST_POINT`.
        draw: bound -> a uniform number below it; only tests give another than the system's.

    Returns:
        Point -> share, `SHARE_BYTES` bytes.

    Raises:
        ValueError: if an argument is out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, got {len(secret)}")
    values = split_number(int.from_bytes(secret), threshold, points, PRIME, draw)
    return {point: value.to_bytes(SHARE_BYTES) for point, value in values.items()}


def is_share(share: bytes) -> bool:
    """Whether this could be a share: a number of the right size, in the field."""
    return _number(share) is not None


class Recovered(NamedTuple):
    """A secret, and what was found out of its shares.

    Attributes:
        secret: `SECRET_BYTES` bytes.
        wrong: the points of shares that are not of it; empty where nothing gave reason to look.
    """

    secret: bytes
    wrong: frozenset[int]


def combine(
    shares: Mapping[int, bytes], threshold: int, is_secret: Callable[[bytes], bool]
) -> Recovered:
    """Recover a secret from at least t of its shares, some of which may be wrong.

    The first t give it, unless one of them is wrong. Then all are decoded, which gives it as long
    as no more than half of those beyond t are wrong, or the one where there is but one beyond t.

    Args:
        shares: point -> share, those first that deserve most trust.
        threshold: t.
        is_secret: whether some bytes are the secret.

    Raises:
        ShareError: if there are fewer than t, or one that is used is malformed, or they do not
            give the secret.
    """
    if len(shares) < threshold:
        raise ShareError(f"{len(shares)} shares of a secret that takes {threshold}")
    first = _numbers(itertools.islice(shares.items(), threshold))
    found = _bytes(combine_numbers(first, PRIME))
    if found is not None and is_secret(found):
        return Recovered(found, frozenset())
    values = _numbers(shares.items())
    for some in _decodable(values, threshold):
        polynomial = decode(some, threshold, PRIME)
        if polynomial is None:
            continue
        found = _bytes(evaluate(polynomial, 0, PRIME))
        if found is not None and is_secret(found):
            wrong = {p for p, value in values.items() if evaluate(polynomial, p, PRIME) != value}
            return Recovered(found, frozenset(wrong))
    raise ShareError("they do not give the secret")


def split_number(
    secret: int, threshold: int, points: Iterable[int], prime: int, draw: Callable[[int], int]
) -> dict[int, int]:
    """Share a number below `prime` over that field -> point -> share; see `split`."""
    points = list(points)
    if not 1 <= threshold <= len(points):
        raise ValueError(f"a threshold of {threshold} for {len(points)} shares")
    if len(set(points)) < len(points) or not all(
        0 < p <= min(MOST_POINT, prime - 1) for p in points
    ):
        raise ValueError("points must be distinct, from 1 to 2^20, and below the prime")
    coefficients = [secret, *(draw(prime) for _ in range(threshold - 1))]
    return {point: evaluate(coefficients, point, prime) for point in points}


def combine_numbers(shares: Mapping[int, int], prime: int) -> int:
    """The constant term of the polynomial of least degree through all shares."""
    points = tuple(sorted(shares))
    weights = _weights(points, prime)
    return sum(w * shares[point] for w, point in zip(weights, points, strict=True)) % prime


def _numbers(shares):
    """Pairs of point and share -> point -> number."""
    values = {point: _number(share) for point, share in shares}
    if None in values.values():
        raise ShareError(f"a share is no number of {SHARE_BYTES} bytes in the field")
    return values


def _number(share):
    """What a share stands for; None if it is none."""
    number = int.from_bytes(share)
    return number if number < PRIME and len(share) == SHARE_BYTES else None


def _decodable(values, threshold):
    """Of which of the shares the polynomial is sought, if the first t do not give the secret."""
    match len(values) - threshold:
        case 0:
            return
        case 1:  # too few to say which of them is wrong, but for the secret that comes out
            for point in values:
                yield {other: value for other, value in values.items() if other != point}
        case _:
            yield values


def _bytes(number):
    """A secret; None for one of the few numbers of the field that are none."""
    return number.to_bytes(SECRET_BYTES) if number < 1 << 8 * SECRET_BYTES else None


# A server recovers many secrets from the shares of the same clients.
@lru_cache(maxsize=4096)
def _weights(points, prime):
    """Lagrange's weights at 0: those by which the values at the points add up to that at 0."""
    every = math.prod(points)
    factors = np.subtract.outer(points, points)
    np.fill_diagonal(factors, points)
    # Points are small numbers: many factors, each other point less this one, and the point itself,
    # are multiplied before they are reduced once.
    groups = range(0, len(points), FACTORS)
    products = np.multiply.reduceat(factors, groups, axis=0).T.tolist()
    below = [math.prod(product) % prime for product in products]
    return tuple(every * inverse % prime for inverse in inverses(below, prime))
