"""Models, layer for layer, against the spec's table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl.simulation.models import MODELS, flax_max_pool, max_pool

GREY, COLOUR = (28, 28, 1), (32, 32, 3)
FEATURES = {"lenet": 100, "cnn1": 100, "cnn2": 84}

# Kernel and bias of each layer, scale and bias of each LayerNorm.
COUNTS = {
    ("softmax", GREY): 784 * 10 + 10,
    ("softmax", COLOUR): 3072 * 10 + 10,
    ("lenet", GREY): (784 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10),
    ("lenet", COLOUR): (3072 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10),
    ("cnn1", GREY): (
        (3 * 3 * 1 * 32 + 32)
        + (3 * 3 * 32 * 32 + 32)
        + (3 * 3 * 32 * 64 + 64)
        + (3 * 3 * 64 * 64 + 64)
        + (7 * 7 * 64 * 100 + 100)
        + (100 * 10 + 10)
    ),
    ("cnn1", COLOUR): (
        (3 * 3 * 3 * 32 + 32)
        + (3 * 3 * 32 * 32 + 32)
        + (3 * 3 * 32 * 64 + 64)
        + (3 * 3 * 64 * 64 + 64)
        + (8 * 8 * 64 * 100 + 100)
        + (100 * 10 + 10)
    ),
    ("cnn2", GREY): (
        (5 * 5 * 1 * 32 + 32)
        + (32 + 32)
        + (5 * 5 * 32 * 64 + 64)
        + (64 + 64)
        + (14 * 14 * 64 * 120 + 120)
        + (120 + 120)
        + (120 * 84 + 84)
        + (84 * 10 + 10)
    ),
    ("cnn2", COLOUR): (
        (5 * 5 * 3 * 32 + 32)
        + (32 + 32)
        + (5 * 5 * 32 * 64 + 64)
        + (64 + 64)
        + (16 * 16 * 64 * 120 + 120)
        + (120 + 120)
        + (120 * 84 + 84)
        + (84 * 10 + 10)
    ),
}

each_model = pytest.mark.parametrize("name", MODELS)


def shapes(name, shape):
    images = jnp.zeros((2, *shape))
    return jax.eval_shape(MODELS[name]().init, jax.random.key(0), images)["params"]


def random_params(name, shape, rng, spread=1.0):
    """Draw every parameter, so that biases and LayerNorm's scales show."""

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        return jnp.asarray(spread * rng.normal(0, fan_in**-0.5, leaf.shape))

    return {"params": jax.tree.map(draw, shapes(name, shape))}


class Plain:
    """The layers in NumPy, [batch, height, width, channels]."""

    def __init__(self, params):
        self.params = jax.device_get(params["params"])
        self.used = {"Conv": 0, "Dense": 0, "LayerNorm": 0}

    def take(self, kind):
        number = self.used[kind]
        self.used[kind] += 1
        return self.params[f"{kind}_{number}"]

    def dense(self, x, layer=None):
        layer = layer or self.take("Dense")
        return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]

    def conv(self, x):
        """Stride 1, SAME: zeros all around, and no flipping of the kernel."""
        layer = self.take("Conv")
        size = len(layer["kernel"])
        _, height, width, _ = x.shape
        edge = (size // 2, size // 2)
        x = np.pad(x, ((0, 0), edge, edge, (0, 0)))
        out = layer["bias"]
        for row in range(size):
            for column in range(size):
                window = x[:, row : row + height, column : column + width]
                out = out + window @ layer["kernel"][row, column]
        return out

    def layer_norm(self, x):
        layer = self.take("LayerNorm")
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * layer["scale"] + layer["bias"]

    def max_pool(self, x):
        """3x3, stride 2, SAME: an odd side is padded at both ends, an even one at its far end."""
        batch, height, width, channels = x.shape
        rows, columns = -(-height // 2), -(-width // 2)
        out = np.empty((batch, rows, columns, channels))
        for row in range(rows):
            for column in range(columns):
                top, left = 2 * row - height % 2, 2 * column - width % 2
                window = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
                out[:, row, column] = window.max((1, 2))
        return out

    def softmax(self, x):
        return x.reshape(len(x), -1)

    def lenet(self, x):
        return relu(self.dense(relu(self.dense(x))))

    def cnn1(self, x):
        x = self.max_pool(relu(self.conv(relu(self.conv(x)))))
        x = self.max_pool(relu(self.conv(relu(self.conv(x)))))
        return relu(self.dense(x))

    def cnn2(self, x):
        x = relu(self.layer_norm(self.conv(x)))
        x = self.max_pool(relu(self.layer_norm(self.conv(x))))
        x = relu(self.layer_norm(self.dense(x)))
        return relu(self.dense(x))


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize(("name", "shape"), COUNTS)
def test_parameters_are_as_many_as_the_layers_have(name, shape):
    leaves = jax.tree.leaves(shapes(name, shape))
    assert sum(leaf.size for leaf in leaves) == COUNTS[name, shape]
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@each_model
def test_ends_in_a_dense_layer_called_classifier(name, shape):
    classifier = shapes(name, shape)["classifier"]
    features = FEATURES.get(name, int(np.prod(shape)))
    assert {key: leaf.shape for key, leaf in classifier.items()} == {
        "kernel": (features, 10),
        "bias": (10,),
    }


@pytest.mark.usefixtures("double_precision")
# An even and an odd number of rows, which SAME pools differently.
@pytest.mark.parametrize("shape", [(6, 5, 1), (7, 8, 3)])
@each_model
def test_computes_what_the_table_says(name, shape):
    rng = np.random.default_rng(0)
    params, images = random_params(name, shape, rng), rng.uniform(0, 1, (3, *shape))
    model, plain = MODELS[name](), Plain(params)
    representation = getattr(plain, name)(images)
    logits = plain.dense(representation, plain.params["classifier"])
    layers = {key.split("_")[0] for key in plain.params} - {"classifier"}
    assert plain.used == {
        kind: sum(key.startswith(kind) for key in plain.params) for kind in plain.used
    }
    assert layers <= set(plain.used)
    assert logits.std() > 0.01
    got = model.apply(params, images, method="representation")
    np.testing.assert_allclose(got, representation, 1e-9, 1e-12)
    np.testing.assert_allclose(model.apply(params, images), logits, 1e-9, 1e-12)


@pytest.mark.usefixtures("double_precision")
@settings(max_examples=50)
@given(
    # Most windows have ties.
    images=arrays("float64", (2, 7, 6, 2), elements=st.integers(0, 3)),
    size=st.sampled_from([(7, 6), (2, 5), (1, 1)]),
)
def test_max_pool_and_its_gradient_are_those_of_flax(images, size):
    images = jnp.asarray(images[:, : size[0], : size[1]])
    pooled, gradient = jax.vjp(max_pool, images)
    expected, expected_gradient = jax.vjp(flax_max_pool, images)
    assert np.array_equal(pooled, expected)
    # No two entries are alike, so that it shows which pixel gets which.
    cotangent = jnp.arange(1.0, 1.0 + pooled.size).reshape(pooled.shape)
    assert np.array_equal(gradient(cotangent)[0], expected_gradient(cotangent)[0])


@pytest.mark.parametrize("where", [(0, 0), (2, 1), (4, 4)])
def test_max_pool_keeps_nan(where):
    images = jnp.zeros((1, 5, 5, 1)).at[0, where[0], where[1], 0].set(jnp.nan)
    assert np.array_equal(jnp.isnan(max_pool(images)), jnp.isnan(flax_max_pool(images)))


@pytest.mark.usefixtures("double_precision")
def test_layer_norm_adds_a_millionth_to_the_variance():
    rng = np.random.default_rng(0)
    # Small kernels make variances of about a millionth, of which an epsilon of 1e-5 or 1e-7 would
    # make something else.
    params = random_params("cnn2", (4, 4, 1), rng, spread=1e-3)
    images = rng.uniform(0, 1, (2, 4, 4, 1))
    got = MODELS["cnn2"]().apply(params, images, method="representation")
    np.testing.assert_allclose(got, Plain(params).cnn2(images), 1e-9, 1e-15)


@each_model
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31))
def test_the_representation_is_what_the_classifier_sees(name, seed):
    rng = np.random.default_rng(seed)
    params = random_params(name, (4, 4, 1), rng)
    images = jnp.asarray(rng.uniform(0, 1, (5, 4, 4, 1)), "float32")
    model, last = MODELS[name](), params["params"]["classifier"]
    representation = model.apply(params, images, method="representation")
    logits = model.apply(params, images)
    assert representation.shape == (5, FEATURES.get(name, 16))
    assert logits.shape == (5, 10)
    # On a GPU both may multiply in fewer bits, alike.
    expected = representation @ last["kernel"] + last["bias"][None]
    np.testing.assert_allclose(logits, expected, 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["lenet", "cnn2"])
def test_kernels_start_lecun_normal_and_biases_at_zero(name):
    params = jax.jit(MODELS[name]().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for layer, leaves in params.items():
        assert not np.any(leaves["bias"]), layer
        if "scale" in leaves:
            assert np.all(leaves["scale"] == 1), layer
            continue
        kernel = np.asarray(leaves["kernel"])
        deviation = np.prod(kernel.shape[:-1]) ** -0.5
        # The standard error of a deviation is about 0.7 / sqrt(count).
        assert abs(kernel.std() / deviation - 1) < 3 / kernel.size**0.5, layer
        assert abs(kernel.mean()) < 4 * deviation / kernel.size**0.5, layer
        # Drawn within two deviations of a normal distribution, then spread to the right deviation.
        assert np.abs(kernel).max() < 2 * deviation / 0.8796, layer


def test_names_are_the_specs():
    assert set(MODELS) - {"resnet"} == {"softmax", "lenet", "cnn1", "cnn2"}
