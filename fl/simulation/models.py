"""Flax models of the experiments: logits, and the representation before the classifier."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

CLASSES = 10

_conv3 = partial(nn.Conv, kernel_size=(3, 3))
_conv5 = partial(nn.Conv, kernel_size=(5, 5))
# Flax's own max-pool of the same windows; `max_pool` below computes the same, faster.
flax_max_pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")


def max_pool(x: jax.Array) -> jax.Array:
    """Max-pool 3x3 with stride 2 and padding "SAME", as `flax_max_pool` does.

    On CPU, XLA's gradient of the latter takes up to half the time of a step of cnn1. Here it is
    that of comparisons, along one axis after the other, and ten times as fast. Of equal entries,
    frequent after a ReLU, it goes to the same one as there: the first in reading order.

    Args:
        x: [batch, height, width, channels]; a NaN makes its windows NaN.
    """
    return _max_along(_max_along(x, axis=2), axis=1)


def _max_along(x, axis):
    """Maxima of windows of 3, with stride 2."""
    size = x.shape[axis]
    windows = math.ceil(size / 2)
    padding = 2 * windows + 1 - size
    widths = [(0, 0)] * x.ndim
    widths[axis] = (padding // 2, padding - padding // 2)
    x = jnp.pad(x, widths, constant_values=-jnp.inf)
    largest, *others = (
        lax.slice_in_dim(x, start, start + 2 * windows - 1, 2, axis) for start in range(3)
    )
    for other in others:
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest


class Classifier(nn.Module):
    """A model that ends in the dense layer `classifier`.

    The input of that layer is the *representation*, which the representation attack matches
    (Zhang et al. 2022, arXiv:2202.10546). A subclass says how to compute it from the images.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [batch, height, width, channels] in [0, 1] -> logits [batch, classes]."""
        return nn.Dense(CLASSES, name="classifier")(self.representation(images))

    def tap(self, features: jax.Array) -> jax.Array:
        """Let Grad-CAM see the features [batch, height, width, channels] before the last max-pool.

        Returns the features as they are, unless the model is applied with a collection
        `perturbations` whose entry `features` is then added to them (the gradient with respect to
        it is the one with respect to the features); a mutable collection `intermediates` holds
        them afterwards.
        """
        # Else initial variables would hold more than the parameters.
        if self.is_initializing():
            return features
        self.sow("intermediates", "features", features)
        return self.perturb("features", features)


class Softmax(Classifier):
    """Multi-class logistic regression."""

    def representation(self, images):
        """Images [batch, height, width, channels] -> [batch, features]."""
        return _flatten(images)


class LeNet(Classifier):
    """LeNet-300-100 (LeCun et al. 1998): two dense hidden layers."""

    @nn.compact
    def representation(self, images):
        """Images [batch, height, width, channels] -> [batch, 100]."""
        x = nn.relu(nn.Dense(300)(_flatten(images)))
        return nn.relu(nn.Dense(100)(x))


class CNN1(Classifier):
    """Two blocks of two 3x3 convolutions and a max-pool, then a dense layer."""

    pool: Callable = max_pool

    @nn.compact
    def representation(self, images):
        """Images [batch, height, width, channels] -> [batch, 100]."""
        x = images
        for features in (32, 64):
            x = nn.relu(_conv3(features)(x))
            x = nn.relu(_conv3(features)(x))
            x = self.pool(self.tap(x) if features == 64 else x)
        return nn.relu(nn.Dense(100)(_flatten(x)))


class CNN2(Classifier):
    """Two 5x5 convolutions with LayerNorm over the channels, then two dense layers."""

    pool: Callable = max_pool

    @nn.compact
    def representation(self, images):
        """Images [batch, height, width, channels] -> [batch, 84]."""
        x = nn.relu(nn.LayerNorm()(_conv5(32)(images)))
        x = nn.relu(nn.LayerNorm()(_conv5(64)(x)))
        x = _flatten(self.pool(self.tap(x)))
        x = nn.relu(nn.LayerNorm()(nn.Dense(120)(x)))
        return nn.relu(nn.Dense(84)(x))


def _flatten(images):
    return images.reshape(len(images), -1)


MODELS = {"softmax": Softmax, "lenet": LeNet, "cnn1": CNN1, "cnn2": CNN2}
