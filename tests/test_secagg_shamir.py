"""Shamir's secret sharing, and decoding around wrong shares."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import shamir
from secagg.decoding import decode, evaluate, inverses
from secagg_rounds import uniform


def test_fewer_shares_than_the_threshold_leave_every_secret_equally_likely():
    prime, threshold, points = 7, 3, (1, 2, 3, 4)
    for holders in itertools.combinations(points, threshold - 1):
        seen = Counter()
        for secret, *coefficients in itertools.product(range(prime), repeat=threshold):
            drawn = iter(coefficients)
            shares = shamir.split_number(
                secret, threshold, points, prime, lambda _, drawn=drawn: next(drawn)
            )
            seen[(*(shares[point] for point in holders), secret)] += 1
        # Whatever two holders see, each secret is behind it equally often.
        assert len(seen) == prime**threshold
        assert set(seen.values()) == {1}


@given(
    secret=st.binary(min_size=32, max_size=32),
    threshold=st.integers(1, 6),
    chosen=st.permutations(range(1, 7)),
)
def test_any_shares_of_the_threshold_give_the_secret(secret, threshold, chosen):
    shares = shamir.split(secret, threshold, range(1, 7))
    assert {len(share) for share in shares.values()} == {shamir.SHARE_BYTES}
    some = {point: shares[point] for point in chosen[:threshold]}
    assert shamir.combine(some, threshold, secret.__eq__) == (secret, frozenset())
    if threshold > 1:
        some.popitem()
        with pytest.raises(shamir.ShareError, match="takes"):
            shamir.combine(some, threshold, secret.__eq__)


@given(st.data())
def test_a_secret_is_decoded_around_wrong_shares_as_long_as_there_are_enough(data):
    points = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=14, unique=True))
    threshold = data.draw(st.integers(1, len(points) - 1))
    spare = len(points) - threshold
    most = max(spare // 2, spare == 1)
    liars = data.draw(st.permutations(points))[: data.draw(st.integers(0, most))]
    shares = shamir.split(bytes(range(32)), threshold, points)
    for liar in liars:
        shares[liar] = data.draw(st.integers(0, 2**256)).to_bytes(33)
    found = shamir.combine(shares, threshold, bytes(range(32)).__eq__)
    assert found.secret == bytes(range(32))
    assert found.wrong <= set(liars)


@settings(max_examples=300)
@given(st.data())
def test_decoding_finds_what_a_search_finds(data):
    """In a small field: the one polynomial of low degree that goes through enough of the shares."""
    prime, threshold = 11, data.draw(st.integers(1, 3))
    points = data.draw(st.lists(st.integers(0, 10), min_size=threshold, max_size=7, unique=True))
    shares = {point: data.draw(st.integers(0, 10)) for point in points}
    most = (len(points) - threshold) // 2
    near = [
        candidate
        for candidate in itertools.product(range(prime), repeat=threshold)
        if sum(evaluate(candidate, p, prime) != v for p, v in shares.items()) <= most
    ]
    found = decode(shares, threshold, prime)
    padded = [tuple(found + [0] * (threshold - len(found)))] if found is not None else []
    assert padded == near


@given(st.lists(st.integers(1, 10), max_size=8))
def test_inverses_are_those_of_each(numbers):
    assert inverses(numbers, 11) == [pow(number, -1, 11) for number in numbers]


def test_shares_are_drawn_by_the_system():
    """Those of one secret are uniform, too."""
    drawn = [shamir.split(bytes(32), 2, (1, 2))[1] for _ in range(2000)]
    assert len(set(drawn)) == len(drawn)
    assert uniform(Counter(byte for share in drawn for byte in share[1:]))


def test_shares_that_are_none_are_refused():
    shares = shamir.split(bytes(32), 2, (1, 2))
    for wrong in (b"\xff" * 33, b""):
        with pytest.raises(shamir.ShareError, match="no number"):
            shamir.combine(shares | {1: wrong}, 2, bytes(32).__eq__)
    for threshold, points in (
        (3, (1, 2)),
        (0, (1, 2)),
        (2, (0, 1)),
        (2, (1, 1)),
        (1, (2**20 + 1,)),
    ):
        with pytest.raises(ValueError, match=r"threshold|points"):
            shamir.split(bytes(32), threshold, points)


def test_secrets_are_shared_among_clients_with_the_largest_numbers():
    """Products of their points are as large as can be."""
    points = [*range(1, 40), *range(shamir.MOST_POINT - 39, shamir.MOST_POINT + 1)]
    shares = shamir.split(bytes(range(32)), len(points), points)
    assert shamir.combine(shares, len(points), bytes(range(32)).__eq__).secret == bytes(range(32))


def test_the_field_is_a_field():
    for witness in (2, 3, 5, 7, 11, 13, 17):
        assert pow(witness, shamir.PRIME - 1, shamir.PRIME) == 1
    assert shamir.PRIME > 2**256
