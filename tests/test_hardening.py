"""PGD against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.simulation import pgd
from fl.simulation.models import MODELS
from fl.simulation.training import sample_losses

SHAPE = (3, 3, 1)
BATCH = 5
# Values of a float32 next to one another, near 1.
ROUNDING = 2.0**-23

losses = sample_losses(MODELS["softmax"]())
seeds = st.integers(0, 2**32)
steps = st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 0.3, 0.5, 2.0])


def draw(seed):
    """Draw a linear model and a minibatch, a third of whose pixels are black or white."""
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(0, 1, (9, 10)), rng.normal(0, 1, 10)
    images = np.clip(rng.uniform(-0.25, 1.25, (BATCH, *SHAPE)), 0, 1)
    params = {"params": {"classifier": {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}}}
    return params, jnp.asarray(images, "float32"), jnp.asarray(rng.integers(0, 10, BATCH))


def pixel_gradient(params, images, labels):
    """Of each sample's loss, by hand: (p - y) W'."""
    layer = params["params"]["classifier"]
    kernel, bias = np.asarray(layer["kernel"], float), np.asarray(layer["bias"], float)
    logits = np.asarray(images, float).reshape(BATCH, -1) @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return ((p - np.eye(10)[np.asarray(labels)]) @ kernel.T).reshape(images.shape)


@given(seeds, steps, st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_moves_along_the_gradients_sign_within_the_box(seed, eta, radius):
    params, x, y = draw(seed)
    gradient = pixel_gradient(params, x, y)
    moved = np.asarray(x) + eta * np.sign(gradient)
    expected = np.clip(np.clip(moved, np.asarray(x) - radius, np.asarray(x) + radius), 0, 1)
    got = pgd.pgd(losses, eta, radius)(params, x, y)
    clear = np.abs(gradient) > 1e-5  # elsewhere the sign is a matter of rounding
    np.testing.assert_allclose(got[clear], expected[clear], 0, 2 * ROUNDING)


@given(seeds, steps)
def test_stays_near_the_sample_and_among_images(seed, eta):
    params, x, y = draw(seed)
    got = np.asarray(pgd.pgd(losses, eta)(params, x, y))
    assert got.min() >= 0
    assert got.max() <= 1
    assert np.abs(got - np.asarray(x)).max() <= min(eta, 0.3) + ROUNDING


def test_the_radius_is_three_tenths_unless_said():
    params, x, y = draw(0)
    x = jnp.full_like(x, 0.5)
    moved = np.abs(pgd.pgd(losses, 2.0)(params, x, y) - x)
    np.testing.assert_allclose(moved, 0.3, 1e-6)


@given(seeds, steps)
def test_no_samples_loss_decreases_on_a_linear_model(seed, eta):
    # The loss is convex in the pixels, and no pixel moves against the gradient.
    params, x, y = draw(seed)
    before = np.asarray(losses(params, x, y))
    after = np.asarray(losses(params, pgd.pgd(losses, eta)(params, x, y), y))
    assert np.all(after >= before - 1e-5)


def test_losses_increase():
    params, x, y = draw(1)
    hardened = pgd.pgd(losses, 0.1)(params, x, y)
    assert np.all(losses(params, hardened, y) > losses(params, x, y) + 0.01)


@given(seeds)
def test_a_step_of_zero_changes_nothing(seed):
    params, x, y = draw(seed)
    assert np.array_equal(pgd.pgd(losses, 0.0)(params, x, y), x)


def test_pixels_that_do_not_matter_stay():
    params, x, y = draw(0)
    layer = params["params"]["classifier"]
    layer["kernel"] = layer["kernel"].at[4].set(0.0)  # the centre pixel
    got = np.array(pgd.pgd(losses, 0.1)(params, x, y))
    assert np.array_equal(got[:, 1, 1], x[:, 1, 1])
    assert not np.array_equal(got, x)


@settings(max_examples=8)
@given(seeds)
def test_samples_do_not_influence_one_another(seed):
    params, x, y = draw(seed)
    harden = pgd.pgd(losses, 0.1)
    together = np.asarray(harden(params, x, y))
    clear = np.abs(pixel_gradient(params, x, y)) > 1e-5
    for sample in range(BATCH):
        alone = harden(params, x[sample : sample + 1], y[sample : sample + 1])[0]
        assert np.array_equal(together[sample][clear[sample]], alone[clear[sample]])


def test_a_sample_without_loss_does_not_hide_anothers():
    # The model is sure of the first sample beyond float32; its gradient is nothing to the mean's.
    params, x, y = draw(0)
    layer = params["params"]["classifier"]
    layer["bias"] = layer["bias"].at[y[0]].add(200.0)
    y = y.at[1:].set((y[0] + 1) % 10)
    got = pgd.pgd(losses, 0.1)(params, x, y)
    assert np.array_equal(got[0], x[0])
    moved = np.abs(got[1:] - x[1:])
    assert np.all((moved > 0) | (x[1:] == 0) | (x[1:] == 1))


@pytest.mark.parametrize("seed", range(3))
def test_no_hardening_leaves_images_alone(seed):
    params, x, y = draw(seed)
    assert np.array_equal(pgd.none()(params, x, y), x)
