"""Gains that no neighbour comes near to are bounded; all others are left alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st

(neighbours,) = load("inversion", "neighbours")

SHAPE = (9, 7, 2)


def smooth(seed=0):
    """Gains that halve from the middle to the edge, and a little noise."""
    rows, columns = np.mgrid[:9, :7]
    far = np.hypot(rows - 4, columns - 3) / 5
    gains = np.exp(-far)[:, :, None] * np.ones(SHAPE)
    return (gains * np.random.default_rng(seed).uniform(0.9, 1.1, SHAPE)).ravel().astype(np.float32)


def test_what_is_around_a_pixel():
    x = jnp.arange(12.0).reshape(3, 4, 1)
    around = np.asarray(neighbours.around(x)).squeeze(-1)
    assert sorted(around[:, 1, 1]) == [0, 1, 2, 4, 6, 8, 9, 10]
    assert sorted(around[:, 0, 0]) == [0, 0, 0, 0, 0, 1, 4, 5]
    assert np.asarray(neighbours.around(x, None))[:, 0, 0].max() == 5
    assert np.isnan(neighbours.around(x, jnp.nan)[:, 0, 0]).sum() == 5


def test_gains_that_vary_slowly_stay_as_they_are():
    gains = smooth()
    np.testing.assert_array_equal(neighbours.capped(jnp.asarray(gains), SHAPE), gains)


@given(st.integers(0, 2**31), st.floats(30, 1e6))
def test_a_corner_of_gains_far_too_large_is_brought_near_the_rest(seed, factor):
    gains = smooth(seed).reshape(SHAPE)
    spoilt = gains.copy()
    spoilt[:4, :4] *= factor
    spoilt[0, 0] = np.inf  # unknown
    spoilt[2, 5, 0] *= 1e-4
    found = np.asarray(neighbours.capped(jnp.asarray(spoilt.ravel()), SHAPE)).reshape(SHAPE)
    corner = np.zeros(SHAPE, bool)
    corner[:4, :4] = True
    assert 0.5 < found[2, 5, 0] / gains[2, 5, 0] < 4
    corner[2, 5, 0] = True
    np.testing.assert_array_equal(found[~corner], gains[~corner])
    assert (found[corner] / gains[corner] < 2.0**5).all()
    assert (found[corner] > 0).all()


def test_black_stays_black():
    gains = smooth()
    gains[7:21] = 0
    np.testing.assert_array_equal(neighbours.capped(jnp.asarray(gains), SHAPE), gains)


@pytest.mark.parametrize("value", [0, np.inf])
def test_without_any_gain_there_is_no_limit(value):
    assert (np.asarray(neighbours.capped(jnp.full(126, value), SHAPE)) == 0).all()


def test_the_usual_gain_around_leaves_out_what_is_missing():
    gains = np.ones(SHAPE)
    gains[4, 4, 0], gains[4, 5, 0] = 0, 50
    found = np.asarray(neighbours.usual_around(jnp.asarray(gains.ravel()), SHAPE)).reshape(SHAPE)
    np.testing.assert_array_equal(found, 1)
    assert np.isnan(neighbours.usual_around(jnp.zeros(126), SHAPE)).all()
