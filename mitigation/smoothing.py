"""Smoothed models: many noisy copies of a model vote on what a sample shows.

The vote is what CRFL's certificate counts (Xie et al. 2021, arXiv:2106.08283, algorithm 2), see
`certificate`.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.progress import progress_bar
from fl.simulation import clip_and_noise
from fl.simulation.mapping import VMAP, Mapper, default_mapping
from fl.simulation.models import CLASSES

# Images that pass through a group of models together: enough to keep devices busy, few enough to
# stay in the caches of a CPU (`python bench.py`).
CHUNK = 500


def clipped(params, norm: float):
    """Parameters scaled down to an L2 norm over all entries, where theirs is larger."""
    return optax.projections.projection_l2_ball(params, norm)


def smoothed(params, sigma: float, key: jax.Array):
    """A noisy copy of some parameters.

    Args:
        params: a pytree.
        sigma: standard deviation of the noise on every entry, at least 0.
        key: another one gives other noise.
    """
    noise = clip_and_noise.add_noise(sigma)
    return noise.update(params, noise.init(params), key=key)[0]


def vote(
    logits: Callable,
    params,
    images: jax.Array,
    sigma: float,
    models: int,
    key: jax.Array,
    frozen: bool = False,
    label: str = "",
) -> np.ndarray:
    """Let smoothed models vote, with a progress bar.

    Args:
        logits: (params, images) -> [batch, class].
        params: of the model that is smoothed.
        images: [sample, height, width, channels] in [0, 1].
        sigma: standard deviation of the noise, at least 0.
        models: M, at least 1.
        key: each of the models draws its noise from a key of its own, folded into this one.
        frozen: give all models the same noise, as the published code does.
        label: shown beside the progress bar.

    Returns:
        int [sample, class]: how many of the models predict the class.
    """
    if frozen:  # one of them stands for all
        return models * vote(logits, params, images, sigma, 1, key, label=label)
    mapper = Mapper(vmapped=default_mapping() == VMAP)
    count = _counter(logits, mapper)
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    counts = [jnp.zeros((len(chunk), CLASSES), jnp.int32) for chunk in chunks]
    with progress_bar(models, label, "model") as bar:
        for start in range(0, models, mapper.group):
            numbers = start + np.arange(mapper.group)
            made = _make(params, sigma, key, numbers)
            counts_as = (numbers < models).astype(np.int32)
            counts = [count(made, counts_as, *each) for each in zip(chunks, counts, strict=True)]
            # Or else all of them would be on their way at once, with their models in memory.
            jax.block_until_ready(counts)
            bar.update(min(mapper.group, models - start))
    return np.concatenate(jax.device_get(counts))


@jax.jit
def _make(params, sigma, key, numbers):
    """Smoothed models, stacked, each with noise of its number."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return jax.vmap(smoothed, (None, None, 0))(params, sigma, keys)


# Runs that differ in their seed alone share what is compiled.
@lru_cache
def _counter(logits, mapper):
    """Make (stacked models, whether each counts, images, votes so far) -> votes."""

    @jax.jit
    def count(made, counts_as, images, counts):
        chosen = mapper.map(lambda params: logits(params, images).argmax(-1))(made)
        votes = jax.nn.one_hot(chosen, CLASSES, dtype=counts.dtype)
        return counts + jnp.tensordot(counts_as, votes, 1)

    return count
