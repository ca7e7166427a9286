"""Matching the direction of a window's last gradient, where nothing tells its factors.

What is undone of a ratio are gradients up to a factor for each entry. A guess at these is the size
of the gradients of noise, which the server can compute; under differential privacy, where second
moments count as no less than a floor, the floor's root is the factor of all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from label_inference import infer_labels
from optimise import solve
from threat_model import WindowView
from window_gradients import follow_leaf, images_behind

from fl.simulation.algorithms import MOMENTS
from fl.simulation.models import CLASSES
from fl.simulation.training import sample_losses

# Minibatches of noise whose gradients tell the sizes of factors.
MINIBATCHES_OF_NOISE = 32


def by_direction(view: WindowView, match: Callable, most: int, key: jax.Array) -> jax.Array:
    """Find images of the last round whose gradient has the direction of what was observed.

    Args:
        view: what the server holds.
        match: public -> the `Problem` of matching a gradient's direction.
        most: images to look for, at most.
        key: of the images to start from.

    Returns:
        Images [1, image, height, width, channels] in [0, 1].
    """
    public = view.public._replace(batch=min(images_behind(view), most))

    def last(leaf, sent):
        with jax.enable_x64(True):
            y = follow_leaf(view, leaf, sent)[-1]
        return jnp.asarray(y, jnp.float32)

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[-1]), view.params)
    if public.noisy and public.algorithm.sends == MOMENTS:
        sizes = jax.tree.map(jnp.ones_like, params)
    else:
        sizes = _sizes_on_noise(public, params, key)
    followed = jax.tree.map(last, view.observations, view.params)
    gradient = jax.tree.map(jnp.multiply, followed, sizes)
    observation = jax.tree.map(lambda leaf: leaf[None], gradient)
    labels = infer_labels(gradient, public.batch)
    solution = solve(match(public), observation, params, labels[None], key[None, None])
    return solution.images


def _sizes_on_noise(public, params, key):
    """Root mean squares of the entries of gradients at minibatches of noise."""
    losses = sample_losses(public.model)

    def squares(key):
        image_key, label_key = jax.random.split(key)
        images = jax.random.uniform(image_key, (public.batch, *public.image_shape))
        labels = jax.random.randint(label_key, (public.batch,), 0, CLASSES)
        gradient = jax.grad(lambda p: losses(p, images, labels).mean())(params)
        return jax.tree.map(jnp.square, gradient)

    every = [jax.jit(squares)(own) for own in jax.random.split(key, MINIBATCHES_OF_NOISE)]
    return jax.tree.map(lambda *leaves: jnp.sqrt(sum(leaves) / len(leaves)), *every)
