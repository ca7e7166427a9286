"""Pixels' gains come from what the second layer saw of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

(activations,) = load("inversion", "activations")

PIXELS, UNITS, OUTPUTS = 30, 20, 16


def seen(count=150, rounds=10, seed=0):
    """Images, their activations in rounds of changing weights, and unknown gains and factors."""
    rng = np.random.default_rng(seed)
    weights = (
        rng.normal(size=(rounds, PIXELS + 1, UNITS)) * np.append(np.ones(PIXELS), 0.3)[:, None]
    )
    images = rng.random((count, PIXELS)) * (rng.random((count, PIXELS)) < 0.7)
    which = rng.integers(rounds, size=count)
    inputs = np.concatenate([images, np.ones((count, 1))], axis=1)
    hidden = np.maximum(np.einsum("ip,ipu->iu", inputs, weights[which]), 0)
    gains, factors = np.exp(rng.normal(size=PIXELS)), np.exp(rng.normal(size=UNITS))
    return images, images / gains, hidden, hidden * factors, which, weights, gains


def solve(images, *given):
    with jax.enable_x64(True):
        guess = activations.brightest(images) if len(images) else np.ones(PIXELS)
        return np.asarray(activations.gains(images, *given, guess))


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_gains_are_found_although_some_images_are_none(wrong):
    images, seen_images, _, shown, which, weights, gains = seen(200)
    rng = np.random.default_rng(1)
    spoilt = int(wrong * len(images))
    seen_images[:spoilt] = rng.random((spoilt, PIXELS)) / gains
    found = solve(seen_images, shown, which, weights)
    np.testing.assert_allclose(found, gains, rtol=1e-5 if wrong == 0 else 1e-3)


def test_errors_are_not_blown_up():
    _, seen_images, _, shown, which, weights, gains = seen(300)
    rng = np.random.default_rng(1)
    found = solve(
        seen_images * (1 + 1e-3 * rng.normal(size=seen_images.shape)),
        shown * (1 + 1e-3 * rng.normal(size=shown.shape)),
        which,
        weights,
    )
    assert np.quantile(np.abs(found / gains - 1), 0.9) < 0.02


def test_without_biases_all_is_known_but_for_one_factor():
    _, seen_images, _, _, which, weights, gains = seen()
    weights[:, -1] = 0
    inputs = seen_images * gains
    shown = np.maximum(np.einsum("ip,ipu->iu", inputs, weights[which, :-1]), 0)
    relative = solve(seen_images, shown, which, weights) / gains
    np.testing.assert_allclose(relative, np.median(relative), rtol=1e-5)
    assert 0.5 < np.median(relative) < 2


def test_what_is_never_seen_stays_black():
    _, seen_images, _, shown, which, weights, gains = seen()
    inputs = seen_images * gains
    inputs[:, 4] = 0
    shown = np.maximum(
        np.einsum("ip,ipu->iu", np.c_[inputs, np.ones(len(inputs))], weights[which]), 0
    )
    found = solve(inputs / gains, shown, which, weights)
    assert found[4] == 0
    np.testing.assert_allclose(np.delete(found, 4), np.delete(gains, 4), rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_equations_are_said(count):
    _, seen_images, _, shown, which, weights, _ = seen(count)
    with pytest.raises(activations.TooFewEquationsError, match="equations for 30 pixels"):
        solve(seen_images, shown, which, weights)


@pytest.mark.parametrize("batch", [1, 3])
def test_activations_are_told_apart_by_their_zeros(batch):
    rng = np.random.default_rng(3)
    hidden = np.maximum(rng.normal(size=(batch, UNITS)), 0)
    derivatives = rng.normal(size=(batch, OUTPUTS))
    rows = np.exp(rng.normal(size=UNITS + 1))
    gradient = np.c_[hidden, np.ones(batch)].T @ derivatives / rows[:, None]
    with jax.enable_x64(True):
        found, reliable = activations.of_images(jnp.asarray(gradient), jnp.asarray(hidden == 0))
        found, reliable = np.asarray(found), np.asarray(reliable)
    assert reliable.all()
    np.testing.assert_allclose(found, hidden / rows[:-1] * rows[-1], atol=1e-9)


def test_wrong_zeros_are_noticed():
    rng = np.random.default_rng(4)
    hidden = np.maximum(rng.normal(size=(3, UNITS)), 0)
    gradient = np.c_[hidden, np.ones(3)].T @ rng.normal(size=(3, OUTPUTS))
    silent = rng.random((3, UNITS)) < 0.5
    with jax.enable_x64(True):
        _, reliable = activations.of_images(jnp.asarray(gradient), jnp.asarray(silent))
    assert not np.asarray(reliable).any()
