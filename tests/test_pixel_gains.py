"""Gains of pixels by both ways: what each is believed in, and what both together make exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st

from fl.simulation import algorithms, models

pixel_gains, brightness, nearby_gains, disaggregation, threat_model = load(
    "inversion", "pixel_gains", "brightness", "nearby_gains", "disaggregation", "threat_model"
)

IMAGES, SHAPE, LEVELS = 40, (8, 8, 1), 255
PIXELS = 64
PUBLIC = threat_model.PublicKnowledge(
    models.MODELS["lenet"](), SHAPE, 1, algorithms.secadam(), levels=LEVELS
)


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
    return pixel_gains.both(jnp.asarray(gains), of_steps, jnp.asarray(values), LEVELS).of_pixels


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


def test_an_exact_gain_unlike_its_neighbours_is_not_believed():
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.9, 1.1, PIXELS)
    images = rng.integers(0, LEVELS + 1, (IMAGES, PIXELS)) / LEVELS
    gains = truth * (1 + 0.01 * rng.uniform(-1, 1, PIXELS))
    gains[5] *= 2  # by activations, one pixel is far off
    claimed = truth.copy()
    claimed[[20, 40]] *= 1 / 200, 6.0  # and by steps, others
    of_steps = brightness.Gains(jnp.asarray(claimed.reshape(SHAPE)), jnp.ones(SHAPE, bool))
    values = jnp.asarray(images / truth)
    found = pixel_gains.both(jnp.asarray(gains), of_steps, values, LEVELS)
    np.testing.assert_allclose(found.of_pixels, truth, rtol=0.02)
    assert found.exact


def _found(seed, mixed):
    """What is found in rounds of a layer whose weights are known: images, some of them mixed."""
    rng = np.random.default_rng(seed)
    rounds, each, units, outputs = 12, 6, 120, 40
    truth = rng.integers(0, LEVELS + 1, (rounds, each, PIXELS)) / LEVELS
    truth *= rng.random(truth.shape) < 0.6
    weights = rng.normal(size=(rounds, PIXELS + 1, units)) * 0.3
    hidden = np.maximum(truth @ weights[:, :-1] + weights[:, -1:], 0)
    second = np.concatenate([hidden, np.ones((rounds, each, 1))], 2).transpose(0, 2, 1)
    second = second @ rng.normal(size=(rounds, each, outputs))
    gains = np.exp(0.3 * rng.normal(size=PIXELS))
    images = truth / gains
    wrong = rng.random((rounds, each)) < mixed
    images = np.where(wrong[..., None], images + np.roll(images, 1, axis=1), images)
    found = disaggregation.Disaggregated(
        jnp.asarray(images),
        jnp.full((rounds, each), 50.0),
        jnp.asarray(hidden == 0),
        jnp.ones((rounds, units), bool),
    )
    return found, gains, wrong, jnp.asarray(weights), jnp.asarray(second)


@pytest.mark.parametrize("mixed", [0.0, 0.5])
def test_mixtures_are_told_from_images_and_left_out(mixed):
    with jax.enable_x64(True):
        found, gains, wrong, weights, second = _found(4, mixed)
        shares = np.asarray(pixel_gains.contradicted(found, jnp.asarray(gains), weights))
        certain = np.ones(wrong.shape, bool)
        images = pixel_gains.evidence(found, certain, weights, PUBLIC)
        solved = pixel_gains.by_activations(second, images, PUBLIC)
    assert (shares[~wrong] == 0).all()
    assert (shares[wrong] > 0.05).all()
    np.testing.assert_allclose(solved, gains, rtol=1e-3)


def test_gains_are_refined_to_exact_ones():
    with jax.enable_x64(True):
        found, gains, wrong, weights, second = _found(5, 0.3)
        certain = np.ones(wrong.shape, bool)
        images = pixel_gains.evidence(found, certain, weights, PUBLIC)
        known = pixel_gains.refine(
            images, pixel_gains.by_activations(second, images, PUBLIC), PUBLIC
        )
        none = pixel_gains.evidence(found, certain & False, weights, PUBLIC)
        assert pixel_gains.by_patterns(none, PUBLIC) is None
        assert pixel_gains.by_activations(second, none, PUBLIC) is None
        alone = pixel_gains.refine(none, None, PUBLIC)
    assert known.exact
    assert known.likely
    assert known.contradicted == 0
    np.testing.assert_allclose(known.of_pixels, gains, rtol=1e-3)
    assert not alone.likely
    assert alone.contradicted == 1


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
