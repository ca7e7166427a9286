"""Loss and evaluation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fl.data.datasets import Dataset
from fl.simulation.models import MODELS
from fl.simulation.training import evaluator, sample_losses, training_samples

SHAPE = (3, 3, 1)
CHUNK = 8


def params(rng, pixels=9):
    kernel, bias = rng.normal(0, 1, (pixels, 10)), rng.normal(0, 1, 10)
    classifier = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return {"params": {"classifier": classifier}}


def logits_of(params, images):
    layer = params["params"]["classifier"]
    return images.reshape(len(images), -1) @ layer["kernel"] + layer["bias"]


def dataset(rng, tested, scale=255.0):
    def draw(count):
        images = rng.integers(0, int(scale) + 1, (count, *SHAPE)).astype(np.uint8)
        return images, rng.integers(0, 10, count).astype(np.int32)

    return Dataset("made up", *draw(20), *draw(tested), scale=scale)


class TestLoss:
    def test_is_the_cross_entropy_of_the_softmax_output(self):
        rng = np.random.default_rng(0)
        w, images = params(rng), rng.uniform(0, 1, (6, *SHAPE))
        labels = np.array([0, 9, 3, 3, 5, 1])
        logits = logits_of(w, images)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = -np.log(probabilities[np.arange(6), labels])
        losses = sample_losses(MODELS["softmax"]())(w, jnp.asarray(images), jnp.asarray(labels))
        np.testing.assert_allclose(losses, expected, 2e-5)

    def test_is_the_logarithm_of_ten_where_nothing_is_known(self):
        w = jax.tree.map(np.zeros_like, params(np.random.default_rng(0)))
        losses = sample_losses(MODELS["softmax"]())(w, jnp.ones((4, *SHAPE)), jnp.arange(4))
        np.testing.assert_allclose(losses, [np.log(10)] * 4, 1e-6)

    def test_stays_finite_where_the_model_is_sure_and_wrong(self):
        w = params(np.random.default_rng(0))
        w["params"]["classifier"]["bias"] = np.array([1000.0, *[0.0] * 9], np.float32)
        losses = sample_losses(MODELS["softmax"]())(w, jnp.zeros((2, *SHAPE)), jnp.array([0, 1]))
        np.testing.assert_allclose(losses, [0, 1000])


class TestSamples:
    @pytest.mark.parametrize("scale", [255.0, 16.0])
    def test_are_divided_by_the_scale_and_nothing_else(self, scale):
        data = dataset(np.random.default_rng(0), 1, scale)
        images, labels = training_samples(data).take(jnp.array([[3, 0], [19, 3]]))
        chosen = np.array([[3, 0], [19, 3]])
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, data.train_images[chosen] / scale, 1e-6)
        assert images.shape == (2, 2, *SHAPE)
        assert np.array_equal(labels, data.train_labels[chosen])

    def test_stay_uint8_on_the_device(self):
        data = dataset(np.random.default_rng(0), 1)
        samples = training_samples(data)
        assert samples.images.dtype == np.uint8
        assert np.array_equal(samples.images, data.train_images)

    @pytest.mark.usefixtures("double_precision")
    def test_follow_the_float_type_that_jax_is_in(self):
        images, _ = training_samples(dataset(np.random.default_rng(0), 1)).take(jnp.arange(3))
        assert images.dtype == np.float64


class TestEvaluator:
    @pytest.mark.parametrize("tested", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 1])
    def test_counts_every_sample_once(self, tested):
        rng = np.random.default_rng(tested)
        data, w = dataset(rng, tested), params(rng)
        predicted = logits_of(w, data.test_images / 255).argmax(1).astype(np.int32)
        order = np.arange(tested)
        # Nothing, the last sample alone (which must not count for the filling), all but the first,
        # everything.
        for first_right in (tested, tested - 1, 1, 0):
            labels = np.where(order >= first_right, predicted, (predicted + 1) % 10)
            accuracy = evaluator(MODELS["softmax"](), data._replace(test_labels=labels), CHUNK)
            assert accuracy(w) == (tested - first_right) / tested

    @pytest.mark.parametrize("tested", [499, 500, 501])
    def test_counts_every_sample_in_chunks_of_the_usual_size(self, tested):
        rng = np.random.default_rng(tested)
        data, w = dataset(rng, tested), params(rng)
        right = logits_of(w, data.test_images / 255).argmax(1) == data.test_labels
        assert evaluator(MODELS["softmax"](), data)(w) == right.mean()

    def test_divides_by_the_data_sets_scale(self):
        rng = np.random.default_rng(0)
        data, w = dataset(rng, 200, scale=16.0), params(rng)
        right = logits_of(w, data.test_images / 16).argmax(1) == data.test_labels
        assert right.mean() != (
            (logits_of(w, data.test_images / 255).argmax(1) == data.test_labels).mean()
        )
        assert evaluator(MODELS["softmax"](), data)(w) == right.mean()

    def test_judges_the_params_it_is_given(self):
        rng = np.random.default_rng(0)
        data = dataset(rng, 50)
        accuracy = evaluator(MODELS["softmax"](), data, CHUNK)
        for w in (params(rng), params(rng)):
            right = logits_of(w, data.test_images / 255).argmax(1) == data.test_labels
            assert accuracy(w) == right.mean()

    def test_takes_test_samples_not_training_samples(self):
        rng = np.random.default_rng(0)
        data, w = dataset(rng, 20), params(rng)
        predicted = logits_of(w, data.test_images / 255).argmax(1).astype(np.int32)
        data = data._replace(test_labels=predicted, train_labels=(predicted + 1) % 10)
        assert evaluator(MODELS["softmax"](), data)(w) == 1
