"""Images are told apart by the zeros of a ReLU's derivatives, and by nothing else."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from scipy.optimize import linear_sum_assignment

disaggregate = load("inversion", "disaggregation")[0].disaggregate

KEY = jax.random.key(0)
PIXELS, UNITS = 60, 200


def layer(batch, seed=0, noise=0.0, units=UNITS, spread=0.0):
    """Images, derivatives of a dense layer, and its gradient with errors relative to its entries.

    Args:
        spread: over how many powers of ten images' derivatives go.
    """
    rng = np.random.default_rng(seed)
    images = np.clip(rng.random((batch, PIXELS)) * 1.5 - 0.5, 0, 1)
    derivatives = rng.normal(size=(batch, units)) * (rng.random((batch, units)) < 0.5)
    derivatives *= 10 ** -np.linspace(0, spread, batch)[:, None]
    gradient = np.concatenate([images, np.ones((batch, 1))], axis=1).T @ derivatives
    return images, derivatives, gradient * (1 + noise * rng.normal(size=gradient.shape))


def errors(found, true):
    """Each true image's largest error, found images being assigned to it one to one."""
    each = np.abs(np.asarray(found)[:, None] - true[None]).max(axis=2)
    return each[linear_sum_assignment(each)]


@pytest.mark.parametrize("batch", [1, 2, 8, 16])
def test_without_noise_images_are_exact(batch, double_precision):
    images, derivatives, gradient = layer(batch)
    # Each number of images compiles for seconds; fewer than are looked for are found as well.
    most = 8 if batch == 2 else batch
    found, certainty, *_ = disaggregate(gradient, most, KEY)
    assert errors(found, images).max() < 1e-6
    # A direction is free to make as many derivatives zero as there are others. Units that no image
    # activates say nothing.
    zeros = (derivatives[:, (derivatives != 0).any(axis=0)] == 0).sum(axis=1)
    expected = np.maximum(1, zeros - (batch - 1))
    assert sorted(certainty) == [0] * (most - batch) + sorted(expected)


def test_units_at_which_an_image_is_silent_are_told(double_precision):
    images, derivatives, gradient = layer(8)
    found = disaggregate(gradient, 8, KEY)
    each = np.abs(np.asarray(found.images)[:, None] - images[None]).max(axis=2)
    which, true = linear_sum_assignment(each)
    active = (derivatives != 0).any(axis=0)  # of the others, nothing is known
    np.testing.assert_array_equal(
        np.asarray(found.silent)[which][:, active], (derivatives == 0)[true][:, active]
    )


def test_small_derivatives_are_not_lost_beside_large_ones(double_precision):
    images, _, gradient = layer(8, spread=5)
    assert errors(disaggregate(gradient, 8, KEY)[0], images).max() < 1e-6


@pytest.mark.parametrize("spread", [0, 1])
def test_errors_are_borne(spread, double_precision):
    images, _, gradient = layer(8, noise=1e-4, spread=spread)
    found, certainty, *_ = disaggregate(gradient, 8, KEY)
    assert errors(found, images).max() < 1e-2
    assert certainty.min() > 20


def test_single_precision_is_enough_for_images():
    images, _, gradient = layer(8)
    found, certainty, *_ = disaggregate(gradient.astype(np.float32), 8, KEY)
    assert found.dtype == np.float32
    assert errors(found, images).max() < 1e-2
    assert certainty.min() > 20


def test_noise_may_be_told(double_precision):
    images, _, gradient = layer(8)
    gradient += np.random.default_rng(1).normal(0, 1e-3, gradient.shape)
    found, certainty, *_ = disaggregate(gradient, 8, KEY, noise=1e-3)
    assert errors(found, images).max() < 0.05
    assert certainty.min() > 20
    # Where all may be noise, no zero says anything.
    assert not disaggregate(gradient, 8, KEY, noise=1.0)[1].any()


def test_unknown_gains_are_left_in_the_images(double_precision):
    images, _, gradient = layer(8)
    gains = np.exp(np.random.default_rng(1).normal(size=PIXELS))
    gradient[:-1] *= gains[:, None]
    found, *_ = disaggregate(gradient, 8, KEY)
    assert errors(found / gains[None], images).max() < 1e-6
    # What is outside [0, 1] is no image.
    bounded, certainty, *_ = disaggregate(gradient, 8, KEY, bounded=True)
    assert bounded.min() >= 0
    assert bounded.max() <= 1
    assert not certainty.any()


def test_images_in_bounds_are_images(double_precision):
    images, _, gradient = layer(8)
    assert errors(disaggregate(gradient, 8, KEY, bounded=True)[0], images).max() < 1e-6


def test_repeated_and_silent_images_leave_the_others_alone(double_precision):
    images, derivatives, _ = layer(8)
    images[1] = images[0]
    derivatives[1] = 0.5 * derivatives[0]
    derivatives[2] = 0
    gradient = np.concatenate([images, np.ones((8, 1))], axis=1).T @ derivatives
    found, certainty, *_ = disaggregate(gradient, 8, KEY)
    assert (np.asarray(certainty) > 0).sum() == 6
    sure = np.asarray(found)[np.asarray(certainty) > 0]
    assert errors(sure, images[[0, 3, 4, 5, 6, 7]]).max() < 1e-6
    assert np.isfinite(found).all()


def test_more_images_than_can_be_told_apart_are_quotients_soon():
    _, _, gradient = layer(200)
    jax.block_until_ready(disaggregate(gradient.astype(np.float32), 8, KEY))
    began = time.perf_counter()
    found, certainty, *_ = jax.block_until_ready(disaggregate(gradient.astype(np.float32), 8, KEY))
    assert time.perf_counter() - began < 10
    assert found.shape == (8, PIXELS)
    assert np.isfinite(found).all()
    assert not certainty.any()


@pytest.mark.parametrize("batch", [1, 8])
def test_nothing_is_black(batch, double_precision):
    found, certainty, *_ = disaggregate(jnp.zeros((PIXELS + 1, UNITS)), batch, KEY)
    np.testing.assert_array_equal(found, np.zeros((batch, PIXELS)))
    assert not certainty.any()


def test_fewer_units_than_images_are_not_an_error():
    found, *_ = disaggregate(layer(8, units=4)[2].astype(np.float32), 8, KEY)
    assert found.shape == (8, PIXELS)
    assert np.isfinite(found).all()
