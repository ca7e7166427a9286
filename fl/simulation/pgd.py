"""Hardening of minibatches by adversarial training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Half-width of the box around a sample in which PGD stays, in units of pixel intensity.
RADIUS = 0.3

Harden = Callable[[object, jax.Array, jax.Array], jax.Array]


def pgd(loss: Callable, step_size: float, radius: float = RADIUS) -> Harden:
    """One step of projected gradient descent (Madry et al. 2018, arXiv:1706.06083, section 2.1).

    Args:
        loss: (params, images, labels) -> the samples' losses, [batch].
        step_size: how far each pixel moves, in units of pixel intensity; at least 0.
        radius: largest distance from the original pixel; at least 0.

    Returns:
        (params, images [batch, height, width, channels] in [0, 1], labels [batch]) -> the images,
        moved towards higher loss. Only the gradient's sign counts, so that samples do not
        influence one another and many clients' samples can be hardened as one batch.
    """

    def harden(params, images, labels):
        gradient = jax.grad(lambda x: loss(params, x, labels).sum())(images)
        moved = images + step_size * jnp.sign(gradient)
        return jnp.clip(jnp.clip(moved, images - radius, images + radius), 0.0, 1.0)

    return harden


def none() -> Harden:
    """No hardening: the images as they are."""
    return lambda params, images, labels: images
