"""The exact attack finds what the analytic one misses, and refuses what has no zeros to show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from test_attacks import ATTACKS, FEDAVG, SMALL, attack, minibatches, noise, observe

from fl.simulation.models import MODELS

psnr = load("inversion", "image_metrics")[0].psnr
PublicKnowledge = load("inversion", "threat_model")[0].PublicKnowledge


def shares(name, seen, images):
    """Share of the true images of which there is a reconstruction above 60 dB."""
    found = attack(name, seen).images
    best = psnr(found[:, None], images[:, :, None]).max(axis=2)
    return float((best > 60).mean())


def test_exact_finds_all_images_of_a_batch_and_analytic_does_not():
    images, labels = minibatches(6, 8)
    seen = observe("fedavg", images, labels)
    assert shares("exact", seen, images) > 0.95 > 0.9 > shares("analytic", seen, images)


def test_exact_survives_an_observation_of_nothing():
    seen = noise("lenet")
    nothing = seen._replace(observations=jax.tree.map(jnp.zeros_like, seen.observations))
    np.testing.assert_array_equal(attack("exact", nothing).images, np.zeros((3, 2, *SMALL)))


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
