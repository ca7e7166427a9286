"""Gains of pixels by both ways: what each is believed in, and what both together make exact."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st

pixel_gains, brightness, nearby_gains, disaggregation = load(
    "inversion", "pixel_gains", "brightness", "nearby_gains", "disaggregation"
)

IMAGES, SHAPE, LEVELS = 40, (8, 8, 1), 255
PIXELS = 64


def _drawn(seed, noise=1e-4):
    """True gains, and images up to them as they are found, [image, pixel]."""
    rng = np.random.default_rng(seed)
    truth = np.exp(rng.normal(size=PIXELS))
    images = rng.integers(0, LEVELS + 1, (IMAGES, PIXELS)) / LEVELS
    return rng, truth, images / truth * (1 + noise * rng.normal(size=images.shape))


def _both(gains, truth, exact, values):
    of_steps = brightness.Gains(
        jnp.asarray(np.where(exact, truth, 1.0).reshape(SHAPE)), jnp.asarray(exact.reshape(SHAPE))
    )
    found = disaggregation.Disaggregated(jnp.asarray(values), None, None)
    certain = np.ones(len(values), bool)
    return pixel_gains.both(jnp.asarray(gains), of_steps, found, certain, LEVELS)[0]


@pytest.mark.parametrize(
    ("error", "share", "wrong"),
    [(0.2, 0.9, True), (0.2, 0.3, False), (0.003, 0.05, False)],
)
def test_exact_gains_tell_wrong_ones_if_there_are_enough_of_them(error, share, wrong):
    rng, truth, values = _drawn(0)
    exact = rng.random(PIXELS) < share
    gains = truth * (1 + error * rng.normal(size=PIXELS))
    found = _both(gains, truth, exact, values)
    expected = np.where(exact, truth, 1.0) if wrong else gains
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_gains_that_are_nearly_right_become_exact(share):
    rng, truth, values = _drawn(1)
    exact = rng.random(PIXELS) < share
    gains = truth * (1 + 0.015 * rng.uniform(-1, 1, PIXELS))
    found = _both(gains, truth, exact, values)
    assert np.mean(np.abs(found / truth - 1) < 3e-4) > 0.9
    np.testing.assert_allclose(found[exact], truth[exact], rtol=1e-6)


@given(st.integers(0, 2**31), st.floats(0.95, 1.05))
def test_whole_steps_are_found_from_any_place_nearby(seed, off):
    _, truth, values = _drawn(seed, noise=1e-5)
    # Few steps each: bright pixels would fit elsewhere as well.
    dark = np.round(LEVELS * values * truth / 10) / LEVELS / truth
    found = nearby_gains.nearby(jnp.asarray(dark), jnp.asarray(truth * off), LEVELS)
    np.testing.assert_allclose(found, truth, rtol=1e-4)


def test_what_is_no_multiple_of_a_step_says_nothing():
    rng = np.random.default_rng(3)
    values = rng.random((IMAGES, PIXELS))
    found = nearby_gains.nearby(jnp.asarray(values), jnp.ones(PIXELS), LEVELS)
    assert np.mean(np.isnan(found)) > 0.8


def test_pixels_that_no_image_shows_have_no_gain():
    found = nearby_gains.nearby(jnp.zeros((IMAGES, 2)), jnp.array([1.0, 0.0]), LEVELS)
    assert np.isnan(found).all()
