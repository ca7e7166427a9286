"""The exact attack finds what the analytic one misses, and refuses what has no zeros to show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from test_attacks import ATTACKS, FEDAVG, KEY, attack, minibatches, observe

from fl.simulation.models import MODELS

disaggregate = load("inversion", "disaggregation")[0].disaggregate
psnr = load("inversion", "image_metrics")[0].psnr
PublicKnowledge = load("inversion", "threat_model")[0].PublicKnowledge


@pytest.fixture(scope="module")
def observed():
    """Images [client, batch, ...] and what the server sees of them."""
    images, labels = minibatches(6, 8)
    return images, observe("fedavg", images, labels)


def shares(name, seen, images):
    """Share of the true images of which there is a reconstruction above 60 dB."""
    found = attack(name, seen).images
    best = psnr(found[:, None], images[:, :, None]).max(axis=2)
    return float((best > 60).mean())


def test_exact_finds_all_images_of_a_batch_and_analytic_does_not(observed):
    images, seen = observed
    assert shares("exact", seen, images) > 0.95 > 0.9 > shares("analytic", seen, images)


def test_weights_tell_images_from_sparser_mixtures_of_two():
    """Where derivatives agree at all units of two images, their difference is the sparser."""
    rng, batch, pixels, units = np.random.default_rng(0), 8, 256, 300
    images = np.clip(rng.random((batch, pixels)) * 1.5 - 0.5, 0, 1)
    weights = rng.normal(size=(pixels + 1, units)) / pixels**0.5
    inputs = np.concatenate([images, np.ones((batch, 1))], axis=1)
    common = rng.normal(size=(batch // 2, units)).repeat(2, axis=0)
    gradient = inputs.T @ (common * (inputs @ weights > 0))
    with jax.enable_x64(True):
        told, certainty, *_ = disaggregate(gradient, batch, KEY, weights=jnp.asarray(weights))
    each = np.abs(np.asarray(told)[:, None] - images[None]).max(axis=2)
    assert each.min(axis=0).max() < 1e-6
    assert certainty.all()


def test_a_client_alone_is_attacked_like_one_of_many(observed):
    images, seen = observed
    problem = ATTACKS["exact"].problem(seen.public)
    one = jax.tree.map(lambda leaf: leaf[2], seen.observations)
    found = problem.init(KEY, one, seen.params, None)
    assert found.shape == images[2].shape
    best = psnr(found[:, None], images[2][None]).max(axis=0)
    assert float((best > 60).mean()) > 0.8


def test_exact_survives_an_observation_of_nothing(observed):
    images, seen = observed
    nothing = seen._replace(observations=jax.tree.map(jnp.zeros_like, seen.observations))
    np.testing.assert_array_equal(attack("exact", nothing).images, np.zeros_like(images))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("cnn1", "first layer is dense, which that of CNN1 is not: it is of type Conv"),
        ("softmax", "followed by a ReLU, which that of Softmax is not: it is the last"),
    ],
)
def test_exact_refuses_a_model_without_a_dense_layer_before_a_relu(model, reason):
    public = PublicKnowledge(MODELS[model](), (16, 16, 1), 8, FEDAVG)
    with pytest.raises(ValueError, match=reason):
        ATTACKS["exact"].problem(public)
