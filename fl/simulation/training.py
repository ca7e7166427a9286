"""Loss, local step and evaluation: what one client does, and how a model is judged."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.data.datasets import Dataset

# What the published code clips softmax outputs to, and to 1 minus this.
LEAST_OUTPUT = 1e-15


class Samples(NamedTuple):
    """Labelled images on the device, in the few bits they came in.

    Attributes:
        images: uint8 [samples, height, width, channels].
        labels: int32 [samples].
        scale: the pixel value that stands for intensity 1.
    """

    images: jax.Array
    labels: jax.Array
    scale: jax.Array

    def take(self, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Indices [...] -> images [..., height, width, channels] in [0, 1] and labels [...]."""
        return self.images[indices].astype(float) / self.scale, self.labels[indices]

    def only(self, indices: np.ndarray) -> tuple["Samples", np.ndarray]:
        """The samples at some indices [...] alone, and their places [...] among these."""
        chosen = indices.ravel()
        some = self._replace(images=self.images[chosen], labels=self.labels[chosen])
        return some, np.arange(chosen.size, dtype=indices.dtype).reshape(indices.shape)


def training_samples(dataset: Dataset, on_host: bool = False) -> Samples:
    """Put a data set's training part on the device, unless it is to stay on the host."""
    if on_host:
        scale = np.float32(dataset.scale)
        return Samples(dataset.train_images, dataset.train_labels.astype(np.int32), scale)
    return _samples(dataset.train_images, dataset.train_labels, dataset.scale)


def test_samples(dataset: Dataset) -> Samples:
    """Put a data set's test part on the device."""
    return _samples(dataset.test_images, dataset.test_labels, dataset.scale)


def _samples(images, labels, scale):
    return Samples(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(scale, float))


def sample_losses(model: nn.Module, clipped: bool = False) -> Callable:
    """Cross-entropy of the softmax output.

    Args:
        model: gives the logits.
        clipped: clip the softmax output to [1e-15, 1 - 1e-15] before the logarithm, as the
            published code does: samples whose label gets less have no gradient.

    Returns:
        (params, images [batch, height, width, channels], labels [batch]) -> losses [batch], in
        nats.
    """

    def losses(params, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, images), labels)

    def clipped_losses(params, images, labels):
        outputs = jax.nn.softmax(model.apply(params, images))
        own = jnp.take_along_axis(outputs, labels[:, None], axis=-1)[:, 0]
        return -jnp.log(jnp.clip(own, LEAST_OUTPUT, 1 - LEAST_OUTPUT))

    return clipped_losses if clipped else losses


def evaluator(model: nn.Module, dataset: Dataset, chunk: int = 500) -> Callable[[object], float]:
    """Test accuracy, over every test sample.

    Args:
        model: gives the logits.
        dataset: its test part is put on the device.
        chunk: samples evaluated at a time; bounds memory, does not change the result.

    Returns:
        params -> share of test samples classified rightly, in [0, 1].
    """
    indices = np.arange(len(dataset.test_labels))
    return share_as_labelled(model, test_samples(dataset), indices, chunk)


def share_as_labelled(
    model: nn.Module, samples: Samples, indices: np.ndarray, chunk: int = 500
) -> Callable[[object], float]:
    """How many of some samples are classified as labelled.

    Args:
        model: gives the logits.
        samples: anything with `take` as `Samples` has it.
        indices: int [sample], at least one.
        chunk: as for `evaluator`.

    Returns:
        params -> share of these samples, in [0, 1].
    """
    count = len(indices)
    # The last chunk is filled up with samples that do not count.
    filled = np.resize(indices, -(-count // chunk) * chunk)
    counts = np.arange(len(filled)) < count
    chunks = list(zip(filled.reshape(-1, chunk), counts.reshape(-1, chunk), strict=True))

    @jax.jit
    def correct(params, samples, indices, counts):
        images, labels = samples.take(indices)
        return jnp.sum((model.apply(params, images).argmax(-1) == labels) & counts)

    def share(params):
        return int(sum(correct(params, samples, *part) for part in chunks)) / count

    return share
