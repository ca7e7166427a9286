"""CRFL's certificate: bounds that hold as often as they say, radii by the formula."""

import math

import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

(crfl,) = load("mitigation", "crfl")

ATTACK = crfl.Attack(
    adversaries=2, local_steps=3, weight=0.1, scale=10, rate=0.01, poisoned=0.25, lipschitz=1.5
)
each_bound = pytest.mark.parametrize("bound", crfl.BOUNDS)


def votes(*counts, error=0.001, bound="hoeffding"):
    return crfl.count(np.array(counts), error, bound)


def test_hoeffdings_bounds_are_the_papers():
    found = votes([30, 900, 70])
    margin = math.sqrt(math.log(1000) / 2000)
    assert found.winner.tolist() == [1]
    assert found.lower[0] == pytest.approx(0.9 - margin)
    assert found.upper[0] == pytest.approx(0.07 + margin)


@pytest.mark.parametrize("count", [0, 1, 400, 999, 1000])
def test_clopper_pearson_is_scipys_exact_interval(count):
    found = votes([1000 - count, count, 0], bound="clopper-pearson", error=0.01)
    most, second = max(count, 1000 - count), min(count, 1000 - count)

    def interval(k):
        return binomtest(k, 1000).proportion_ci(0.98, method="exact")

    assert found.lower[0] == pytest.approx(interval(most).low)
    assert found.upper[0] == pytest.approx(interval(second).high)


@each_bound
@pytest.mark.parametrize("probability", [0.55, 0.9, 0.99])
def test_bounds_are_wrong_no_more_often_than_they_say(bound, probability):
    drawn = np.random.default_rng(0).binomial(200, probability, 20_000)
    drawn = drawn[drawn > 100]
    counts = np.stack([drawn, 200 - drawn], axis=1)
    found = crfl.count(counts, 0.05, bound)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(drawn))
    assert (found.lower > probability).mean() <= allowed
    assert (found.upper < 1 - probability).mean() <= allowed


@each_bound
def test_equal_votes_abstain(bound):
    found = votes([500, 500, 0], [1000, 0, 0], [505, 495, 0], bound=bound)
    assert found.abstains.tolist() == [True, False, True]
    assert crfl.radius(found, 0.01, ATTACK)[[0, 2]].tolist() == [0, 0]


def test_bounds_that_meet_abstain():
    found = votes([2, 0], error=math.exp(-1))  # a margin of 1/2
    assert found.lower.tolist() == found.upper.tolist() == [0.5]
    assert found.abstains.tolist() == [True]


def test_radius_is_the_formulas():
    found = votes([950, 50, 0])
    a, b = found.lower[0], found.upper[0]
    reach = sum((0.1 * 10 * 0.01 * 0.25) ** 2 for _ in range(2))
    d = 2 * 2 * 3**2 * 1.5**2 * reach * 0.5
    expected = math.sqrt(-math.log(1 - (math.sqrt(a) - math.sqrt(b)) ** 2) * 0.02**2 / d)
    assert crfl.radius(found, 0.02, ATTACK, 0.5)[0] == pytest.approx(expected)


@given(first=st.integers(600, 1000), sigma=st.floats(1e-3, 1), factor=st.floats(0.01, 1))
def test_radius_grows_with_certainty_and_noise_and_shrinks_with_the_attack(first, sigma, factor):
    found = votes([first, 1000 - first, 0], [first - 1, 1001 - first, 0])
    surer, less_sure = crfl.radius(found, sigma, ATTACK, factor)
    assert surer >= less_sure > 0
    louder = crfl.radius(found, 2 * sigma, ATTACK, factor)[0]
    assert louder == pytest.approx(2 * surer)
    scaled = crfl.radius(found, sigma, ATTACK._replace(scale=20), factor)[0]
    assert scaled == pytest.approx(surer / 2)


def test_an_attack_that_poisons_nothing_changes_nothing():
    assert crfl.radius(votes([950, 50, 0]), 0.01, ATTACK._replace(poisoned=0))[0] == math.inf


def test_contraction_multiplies_what_is_left_after_each_round():
    one = math.erf(1 / math.sqrt(2))  # 2 Phi(1) - 1
    assert crfl.contraction([0.01, 0.02], [0.01, 0.02]) == pytest.approx(one**2)
    assert crfl.contraction([], []) == 1
    assert crfl.contraction([100.0] * 5, [0.01] * 5) == 1


def test_certified_are_right_votes_of_large_enough_radius():
    found = votes([1000, 0, 0], [0, 1000, 0], [500, 500, 0], [1000, 0, 0])
    radii = np.array([2.0, 2.0, 0.0, 0.5])
    labels = np.array([0, 0, 0, 0])
    assert crfl.certified(found, labels, radii, 1.0).tolist() == [True, False, False, False]
    assert crfl.certified(found, labels, radii, 0.5).tolist() == [True, False, False, True]
    # A delta of 0 does not bring back those who abstained.
    assert crfl.certified(found, labels, radii, 0.0).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("counts", "error", "bound", "sentence"),
    [
        ([[5, 5]], 0.1, "gauss", "choose from hoeffding"),
        ([[5, 5]], 0, "hoeffding", "error"),
        ([[5, 5], [5, 4]], 0.1, "hoeffding", "unequal numbers of votes"),
    ],
)
def test_wrong_input_is_refused(counts, error, bound, sentence):
    with pytest.raises(ValueError, match=sentence):
        crfl.count(np.array(counts), error, bound)
