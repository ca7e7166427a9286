"""The classifier metric: how alike a separate classifier finds true and reconstructed images.

A small convolutional network for 28x28 (or the digits' 16x16) grey images, trained once for each
data set and kept in `fl_cache` in the data directory (`~/tensorflow_datasets` unless said), beside
the arrays of the data sets.
"""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization

from fl import files
from fl.data import datasets
from fl.progress import progress_bar
from fl.simulation import training
from fl.simulation.models import CLASSES, flax_max_pool

STEPS = 3000
BATCH = 512
RATE = 1e-3
# Images that a trained classifier sees at a time; bounds memory.
CHUNK = 1000


class Network(nn.Module):
    """Four 3x3 convolutions of stride 2 with BatchNorm, global average pool, dense."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images [batch, height, width, 1] in [0, 1] -> logits [batch, classes]."""
        x = images
        for number, features in enumerate((32, 32, 64, 64)):
            x = nn.Conv(features, (3, 3), strides=2)(x)
            # Running averages over the last ten minibatches or so also suit short training.
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            if number == 1:
                x = flax_max_pool(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Classifier(NamedTuple):
    """A trained classifier."""

    variables: dict  # of `Network`: params and batch_stats

    def outputs(self, images: jax.Array) -> np.ndarray:
        """Images [..., height, width, 1] in [0, 1] -> logits [..., classes]."""
        images = jnp.asarray(images, float)
        flat = images.reshape(-1, *images.shape[-3:])
        chunks = [
            _logits(self.variables, flat[start : start + CHUNK])
            for start in range(0, len(flat), CHUNK)
        ]
        return np.concatenate(chunks).reshape(*images.shape[:-3], CLASSES)

    def distance(self, true: jax.Array, reconstructed: jax.Array) -> np.ndarray:
        """Cosine distance between the outputs (logits) for true and reconstructed images.

        Args:
            true: [..., height, width, 1] in [0, 1].
            reconstructed: of the same size.

        Returns:
            1 - cosine similarity, [...], in [0, 2]: 0 where the classifier sees the same.

        Raises:
            ValueError: for images of different sizes.
        """
        if np.shape(true) != np.shape(reconstructed):
            raise ValueError(
                f"images of different sizes: {np.shape(true)} and {np.shape(reconstructed)}"
            )
        a, b = (self.outputs(images).astype(np.float64) for images in (true, reconstructed))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return 1 - (a * b).sum(-1) / np.maximum(norms, np.finfo(float).tiny)


@lru_cache(maxsize=1)
def load(
    name: str,
    data_dir: str | Path | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Classifier:
    """Load the classifier of a data set, training it where that has not been done yet.

    Args:
        name: of a data set, see `fl.data.datasets.load`.
        data_dir: as for `fl.data.datasets.load`; the classifier is kept in its folder `fl_cache`.
        steps: minibatches to train on, at least 1.
        seed: of parameters and minibatches.

    Raises:
        ValueError: for images that the network cannot take, see `check`.
        datasets.DatasetUnavailableError: see `fl.data.datasets.load`.
    """
    dataset = datasets.load(name, data_dir)
    check(dataset.train_images.shape[1:])
    path = cache_path(dataset.name, data_dir, steps, seed)
    variables = _initial(dataset, seed)
    kept = _read(path, variables)
    if kept is None:
        kept = train(dataset, steps, seed)
        _write(path, kept)
    return Classifier(kept)


def check(image_shape: tuple[int, int, int]) -> None:
    """Make sure that images are such as the network takes.

    Args:
        image_shape: (height, width, channels).

    Raises:
        ValueError: if they are not grey.
    """
    if image_shape[-1] != 1:
        raise ValueError(
            f"the classifier metric's network takes grey images, not {image_shape[-1]} channels"
        )


def cache_path(name: str, data_dir: str | Path | None, steps: int, seed: int) -> Path:
    """Where the classifier of a data set, number of steps and seed is kept."""
    folder = datasets.cache_dir(data_dir)
    return folder / f"classifier_{name}_{steps}-steps_seed-{seed}.msgpack"


def train(dataset: datasets.Dataset, steps: int, seed: int) -> dict:
    """Train a classifier with Yogi (Zaheer et al. 2018) on the training part of a data set.

    Args:
        dataset: of grey images.
        steps: minibatches of 512 samples, or of all where there are fewer.
        seed: of parameters and minibatches.

    Returns:
        Variables of `Network`: params and batch_stats.
    """
    samples = training.training_samples(dataset)
    optimizer = optax.yogi(RATE)
    variables = _initial(dataset, seed)
    state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables, state, samples, indices):
        images, labels = samples.take(indices)

        def loss(params):
            logits, updated = Network().apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        change, state = optimizer.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], change), **updated}, state

    # Steps are dispatched one by one: gradients of convolutions are slow in compiled loops on CPU.
    batches = _batches(len(dataset.train_labels), steps, np.random.default_rng(seed))
    with progress_bar(steps, "classifier", "step") as bar:
        for indices in batches:
            variables, state = step(variables, state, samples, indices)
            bar.update()
    return jax.device_get(variables)


_logits = jax.jit(Network().apply)


def _initial(dataset, seed):
    example = jnp.zeros((1, *dataset.train_images.shape[1:]))
    return Network().init(jax.random.key(seed), example)


def _batches(count, steps, rng):
    """Yield indices of minibatches, each sample once before any comes again."""
    batch, left = min(BATCH, count), np.empty(0, int)
    for _ in range(steps):
        if len(left) < batch:
            left = rng.permutation(count)
        yield left[:batch]
        left = left[batch:]


def _read(path, like):
    """Return the variables that are kept, or None if they are missing or damaged."""
    try:
        kept = serialization.from_bytes(like, path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = jax.tree.map(lambda a, b: np.shape(a) == np.shape(b), kept, like)
    return kept if all(jax.tree.leaves(fits)) else None


def _write(path, variables):
    """Keep variables, if possible."""
    try:
        with files.replacing(path) as file:
            file.write(serialization.to_bytes(variables))
    except OSError as error:
        warnings.warn(
            f"the classifier will be trained each time: it cannot be kept ({error})", stacklevel=3
        )
