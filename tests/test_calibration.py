"""Calibration finds factors from the rank of gradients, up to gauges, or says that it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

calibration, drift = load("inversion", "calibration", "drift")
calibrate = calibration.calibrate


def scaled(rank, rounds=40, rows=60, units=40, seed=0, noise=0.0):
    """Gradients of a dense layer over rounds, each entry divided by a factor -> (y, factors)."""
    rng = np.random.default_rng(seed)
    images = rng.random((rounds, rows, rank)) * (rng.random((rounds, rows, rank)) < 0.7)
    inputs = np.concatenate([images, np.ones((rounds, 1, rank))], axis=1)
    derivatives = rng.normal(size=(rounds, rank, units))
    derivatives *= rng.random(derivatives.shape) < 0.7
    gradients = inputs @ derivatives
    factors = np.exp(0.5 * rng.normal(size=gradients.shape[1:]))
    return gradients / factors * (1 + noise * rng.normal(size=gradients.shape)), factors


def solve(y, rank, iterations=40):
    """Calibrate in double precision -> (scales, residual), as NumPy has them."""
    with jax.enable_x64(True):
        found = calibrate(jnp.asarray(y), rank, iterations)
    return np.asarray(found.scales), np.asarray(found.residual)


def error(found, factors):
    """Largest relative error, up to a gain for each row and a factor for each unit."""
    true = factors / factors[-1]
    logs = np.log(np.asarray(found)) - np.log(true)
    return np.abs(logs - np.median(logs, axis=1, keepdims=True)).max()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_factors_are_found_up_to_a_gain_for_each_row(rank):
    y, factors = scaled(rank)
    scales, residual = solve(y, rank)
    assert (scales[-1] == 1).all()
    assert error(scales, factors) < 1e-6
    assert residual.max() < 1e-6


def test_noise_is_not_blown_up():
    y, factors = scaled(2, noise=1e-3)
    scales, residual = solve(y, 2)
    assert error(scales, factors) < 0.02
    assert 1e-4 < np.median(residual) < 1e-2


def test_units_beyond_those_calibrated_first_are_found_too(monkeypatch):
    y, factors = scaled(2, units=60)
    monkeypatch.setattr(calibration, "UNITS", 30)
    scales, _ = solve(y, 2)
    kept = scales[-1] == 1
    assert kept.sum() > 50
    assert error(scales[:, kept], factors[:, kept]) < 1e-4


def test_units_without_gradients_are_left_out():
    y, _ = scaled(2)
    y[:, :, 7] = 0
    scales, _ = solve(y, 2)
    assert (scales[:, 7] == 0).all()
    assert np.isfinite(scales).all()


@pytest.mark.parametrize(("rank", "rounds"), [(40, 40), (64, 40), (2, 1)])
def test_it_says_where_the_rank_says_nothing(rank, rounds):
    y, _ = scaled(min(rank, 8), rounds=rounds)
    with pytest.raises(calibration.CannotCalibrateError, match="leave the scales open"):
        calibrate(jnp.asarray(y), rank)


def test_factors_that_drift_are_followed():
    y, factors = scaled(2, rounds=96)
    slopes = 1e-3 * np.random.default_rng(1).normal(size=factors.shape)
    drifted = slopes * np.arange(96)[:, None, None]
    with jax.enable_x64(True):
        whole = calibrate(jnp.asarray(y * np.exp(drifted)), 2).scales
        each = drift.follow_drift(jnp.asarray(y * np.exp(drifted)), 2, whole)
        each, whole = np.asarray(each), np.asarray(whole)

    def usual_error(found):
        logs = np.log(found[-8:]) - np.log(factors) + drifted[-8:]
        logs -= logs[:, -1:]  # a factor for each unit is open, and one for each row
        return np.median(np.abs(logs - np.median(logs, axis=2, keepdims=True)))

    assert (each > 0).all()
    assert usual_error(each) < 0.3 * usual_error(np.broadcast_to(whole, each.shape))
