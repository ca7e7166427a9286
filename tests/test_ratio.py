"""Undoing the ratio: gradients come back wherever they can, up to their entry's factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.simulation import algorithms

(ratio,) = load("inversion", "ratio")

ONE_STEP = ratio.Decay.of_round(1)


def ratios(gradients, squares=None):
    """Adam's bias-corrected ratios of gradients [round, ...], one formula after another."""
    squares = gradients**2 if squares is None else squares
    m, v, found = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    corrections = ratio.corrections(np.arange(1, len(gradients) + 1))
    for g, g2, c1, c2 in zip(gradients, squares, *corrections, strict=True):
        m = ONE_STEP.m * m + (1 - ONE_STEP.m) * g
        v = ONE_STEP.v * v + (1 - ONE_STEP.v) * g2
        found.append(m / c1 / np.sqrt(np.where(v == 0, 1, v) / c2))
    return np.stack(found)


def factors(gradients, y):
    """What each entry's y must be multiplied by, by each round in which there is a gradient."""
    return np.where(gradients != 0, gradients / np.where(y != 0, y, np.nan), np.nan)


def unambiguous(gradients):
    """Entries whose every gradient is the smaller one of the two that explain its ratio."""
    m, v, sure = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), True
    for g in gradients:
        with np.errstate(divide="ignore", invalid="ignore"):
            # |x| < (1 - b1) b2 / (b1 |r| (1 - b2)), multiplied out
            large = np.abs(g * m) * ONE_STEP.m * (1 - ONE_STEP.v)
            sure &= (m == 0) | (large < 0.999 * (1 - ONE_STEP.m) * ONE_STEP.v * v)
        m = ONE_STEP.m * m + (1 - ONE_STEP.m) * g
        v = ONE_STEP.v * v + (1 - ONE_STEP.v) * g**2
    return sure


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), asleep=st.integers(0, 30), share=st.floats(0.2, 1.0))
def test_gradients_come_back_in_double_precision(seed, asleep, share):
    """Sign changes, zeros in between, and entries that wake up late are all in here."""
    rng = np.random.default_rng(seed)
    scale = np.exp(3 * rng.normal(size=200))
    gradients = scale * rng.normal(size=(60, 200)) * (rng.random((60, 200)) < share)
    gradients[:asleep, :100] = 0
    sure = unambiguous(gradients)
    with jax.enable_x64(True):
        y = np.asarray(ratio.follow(jnp.asarray(ratios(gradients)), 1, ONE_STEP))
    assert (y[:, sure][gradients[:, sure] == 0] == 0).all()
    found = factors(gradients, y)[:, sure]
    found = found[:, (~np.isnan(found)).any(axis=0)]
    relative = found / np.nanmax(np.abs(found), axis=0)
    np.testing.assert_allclose(relative[~np.isnan(relative)], 1, rtol=1e-6)


def test_from_a_late_round_on_all_entries_are_sure():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(400, 500))
    with jax.enable_x64(True):
        y = np.asarray(ratio.follow(jnp.asarray(ratios(gradients)[300:]), 301, ONE_STEP))
    found = factors(gradients[301:], y)
    np.testing.assert_allclose(found / found[0], 1, rtol=1e-6)


def test_late_rounds_in_single_precision():
    """The figure that the documentation gives: a median error below 1e-5 over a hundred rounds."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(700, 500)) * (rng.random((700, 500)) < 0.7)
    seen = ratios(gradients).astype(np.float32)[-100:]
    with jax.enable_x64(True):
        y = np.asarray(ratio.follow(jnp.asarray(seen, float), 601, ONE_STEP))
    found = factors(gradients[-99:], y)
    spread = np.nanmedian(np.abs(found / np.nanmedian(found, axis=0) - 1))
    assert spread < 1e-5


def test_what_an_error_explains_is_no_gradient():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(40, 200)) * (rng.random((40, 200)) < 0.3)
    seen = ratios(gradients)[20:] + 0.002 * rng.uniform(-1, 1, (20, 200))
    absolute = np.full(20, 0.004)
    absolute[10] = 0
    y = np.asarray(ratio.follow(jnp.asarray(seen), 21, ONE_STEP, error=(0.0, absolute)))
    quiet = (gradients[21:] == 0) & (y == 0)
    assert quiet.sum() > 0.99 * (gradients[21:] == 0)[np.arange(19) != 9].sum()
    assert not quiet[9].any()


def test_of_an_aggregate_what_a_single_client_has_comes_back():
    """With kappa the number of clients: where the others' gradients are zero, as behind a ReLU."""
    rng = np.random.default_rng(1)
    own = np.zeros((10, 300, 50))
    who = rng.integers(10, size=(300, 50))
    np.put_along_axis(own, who[None], rng.normal(size=(1, 300, 50)), axis=0)
    mean = own.mean(0)
    seen = ratios(mean, (own**2).mean(0))[-40:]
    with jax.enable_x64(True):
        right, wrong = (
            np.asarray(ratio.follow(jnp.asarray(seen), 261, ONE_STEP, kappa=kappa))
            for kappa in (10.0, 1.0)
        )
    found, other = factors(mean[-39:], right), factors(mean[-39:], wrong)
    np.testing.assert_allclose(found / found[0], 1, rtol=1e-6)
    assert np.abs(other / other[0] - 1).max() > 0.01


def test_several_steps_decay_as_often():
    decay = ratio.Decay.of_round(3)
    assert decay.m == pytest.approx(0.9**3, rel=1e-6)
    assert decay.v == pytest.approx(0.999**3, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_the_bias_correction_is_taken_off_as_clients_compute_it(count):
    optimizer = algorithms.secadam()
    params, gradient = jnp.ones(4), jnp.array([1.0, -2.0, 1e-3, 5.0])
    state = optimizer.init_client(params)
    received = algorithms.Broadcast(params)

    def step(carry, _):
        local, state = optimizer.local_step(received, params, carry, gradient)
        return state, local

    state, local = jax.lax.scan(step, state, length=count)
    message, state = optimizer.message(received, local[-1], state)
    raw = ratio.raw_ratios(optimizer.reveal(message)[None], np.array([count]))[0]
    np.testing.assert_allclose(raw, state[0].mu / jnp.sqrt(state[0].nu), rtol=2e-6)


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("local_steps", [1, 2])
def test_at_a_scale_that_stays_differences_are_the_gradients_over_it(
    first, local_steps, double_precision
):
    rng = np.random.default_rng(0)
    gradients, scale = rng.normal(size=(8, 5)), rng.uniform(0.1, 10, 5)
    decay, m, seen = ratio.Decay.of_round(local_steps), np.zeros(5), []
    for number, gradient in enumerate(gradients, 1):
        m = decay.m * m + (1 - decay.m) * gradient
        seen.append(m / ratio.corrections(np.array([local_steps * number]))[0] / scale)
    y = ratio.differences(jnp.array(seen[first - 1 :]), first, decay, local_steps)
    np.testing.assert_allclose(y, gradients[0 if first == 1 else first :] / scale, rtol=1e-9)
