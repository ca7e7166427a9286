"""Smoothed models: their noise, and votes against a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from scipy.stats import norm

from fl.simulation.mapping import GROUP, ON_ONE_DEVICE

(smoothing,) = load("mitigation", "smoothing")

SIGMA, MODELS, IMAGES = 0.05, 1000, 7
KEY = jax.random.key(3)


def logits(params, images):
    return images.reshape(len(images), -1) @ params["kernel"] + params["bias"][None]


def linear_model():
    """Classes 0 and 1 are close, all others out of reach."""
    rng = np.random.default_rng(0)
    kernel = np.zeros((12, 10))
    kernel[:, :2] = rng.normal(0, 0.03, (12, 2))
    bias = np.where(np.arange(10) < 2, 0.0, -100.0)
    images = rng.uniform(0, 1, (IMAGES, 2, 3, 2))
    params = {"kernel": jnp.asarray(kernel, float), "bias": jnp.asarray(bias, float)}
    return params, jnp.asarray(images, float)


def vote(models=MODELS, **options):
    params, images = linear_model()
    return smoothing.vote(logits, params, images, SIGMA, models, KEY, label=None, **options)


def test_votes_of_a_linear_model_agree_with_the_closed_form():
    params, images = linear_model()
    z = np.asarray(logits(params, images))
    # The difference of two logits is normal: noise on two columns of the kernel and two biases.
    flat = np.asarray(images).reshape(IMAGES, -1)
    deviation = SIGMA * np.sqrt(2 * ((flat**2).sum(1) + 1))
    wins = norm.cdf((z[:, 0] - z[:, 1]) / deviation)
    assert ((wins > 0.05) & (wins < 0.95)).all(), "votes that are no contest prove nothing"
    counts = vote()
    # Hoeffding: each share is off by more than this with a probability of 1e-6.
    margin = np.sqrt(np.log(2e6) / (2 * MODELS))
    assert np.abs(counts[:, 0] / MODELS - wins).max() < margin
    assert counts[:, 2:].sum() == 0


@pytest.mark.parametrize("models", [1, GROUP, 23])
def test_every_model_votes_once(models):
    assert (vote(models).sum(1) == models).all()


def test_more_models_are_the_same_ones_and_others():
    few, many = vote(12), vote(25)
    assert (many >= few).all()


@pytest.mark.parametrize("chunk", [3, 100])
def test_images_may_pass_in_any_portions(chunk, monkeypatch):
    whole = vote(20)
    monkeypatch.setattr(smoothing, "CHUNK", chunk)
    assert np.array_equal(vote(20), whole)


def test_models_side_by_side_vote_as_one_by_one(monkeypatch):
    counts = []
    for name in ON_ONE_DEVICE:
        monkeypatch.setattr(smoothing, "default_mapping", lambda name=name: name)
        counts.append(vote(50))
    # A tie within rounding may fall either way.
    assert np.abs(counts[0] - counts[1]).sum() <= 2


def test_models_differ_unless_their_noise_is_frozen():
    assert set(np.unique(vote(frozen=True))) == {0, MODELS}
    split = vote()[:, 0]
    assert ((split > 0) & (split < MODELS)).all()


def test_noise_has_the_stated_deviation_and_differs_from_model_to_model():
    params = {"kernel": jnp.ones((300, 50)), "bias": jnp.zeros(50)}
    first, second = (smoothing.smoothed(params, 0.01, jax.random.key(seed)) for seed in (0, 1))
    noise = np.asarray(first["kernel"]) - 1
    assert noise.std() == pytest.approx(0.01, rel=0.03)
    assert abs(noise.mean()) < 3 * 0.01 / np.sqrt(noise.size)
    assert np.abs(np.corrcoef(noise.ravel(), np.asarray(second["kernel"]).ravel())[0, 1]) < 0.03
    assert np.array_equal(smoothing.smoothed(params, 0, KEY)["bias"], params["bias"])


def test_parameters_are_clipped_as_a_whole_and_only_where_too_large():
    params = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    clipped = smoothing.clipped(params, 2.5)
    np.testing.assert_allclose(clipped["a"], [1.5, 0])
    np.testing.assert_allclose(clipped["b"], [[2.0]])
    np.testing.assert_allclose(smoothing.clipped(params, 6.0)["b"], [[4.0]])
