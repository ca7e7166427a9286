"""What is done to a message or an aggregate before it is seen: clipping and noise.

Each is an optax transformation, so that several can be chained. Those that draw noise take the
random key as an extra argument, `update(..., key=key)`: `optax.add_noise` draws from a key of its
own, which would give every client the same noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def clip_by_norm(max_norm: float, as_published: bool = False) -> optax.GradientTransformation:
    """Bring the L2 norm over all entries down to a bound (Abadi et al. 2016, arXiv:1607.00133).

    ==================  ==========================  ===============================
    norm of the update  default: / max(1, norm/C)   as published: / min(1, norm/C)
    ==================  ==========================  ===============================
    above C             scaled down to C            as it is
    at most C           as it is                    blown up to C
    0                   0                           0 (not a number in that code)
    ==================  ==========================  ===============================

    Args:
        max_norm: the bound C, above 0.
        as_published: do what the published code does.
    """
    if not as_published:
        return optax.clip_by_global_norm(max_norm)

    def blow_up(updates, state, params=None):
        norm = optax.tree.norm(updates)
        scale = jnp.where((norm > 0) & (norm < max_norm), max_norm / norm, 1.0)
        return optax.tree.scale(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), blow_up)


def add_noise(deviation: float) -> optax.GradientTransformationExtraArgs:
    """Add Gaussian noise to every entry; fresh for every key.

    Args:
        deviation: standard deviation, at least 0.
    """

    def update(updates, state, params=None, *, key, **extra_args):
        leaves, structure = jax.tree.flatten(updates)
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + deviation * jax.random.normal(own, leaf.shape, leaf.dtype)
            for leaf, own in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def privatiser(clip: float, noise: float, as_published: bool = False) -> Callable:
    """The Gaussian mechanism at the client: clip the update, then add noise to every entry.

    This is the mechanism alone: which (epsilon, delta) it gives depends on the rounds and on who
    takes part, and is not accounted for here.

    Args:
        clip: L2 norm C to clip to, above 0.
        noise: standard deviation of the noise, at least 0; not multiplied by C.
        as_published: clip as the published code does, see `clip_by_norm`.

    Returns:
        (update, key) -> update, to be used as `fl.simulation.rounds.Work.privatise`.
    """
    mechanism = optax.chain(clip_by_norm(clip, as_published), add_noise(noise))

    def privatise(update, key):
        return mechanism.update(update, mechanism.init(update), key=key)[0]

    return privatise
