"""FLIP: clients harden their model against the triggers that would work best on it.

Zhang et al. 2023 (ICLR, openreview.net/forum?id=Xo2E217_M4n): each honest client inverts triggers,
a mask and a pattern that turn images of one class into another, and trains on images that carry
them under their true labels. Pairs of classes that are nearest to each other come first: there a
trigger needs to change the least.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fl.simulation.models import CLASSES
from fl.simulation.pgd import Harden

# Pairs of classes whose triggers are inverted, of which each has another source.
PAIRS = 5
STEPS, RATE = 10, 0.5
# Cost of the mask's mean entry, against the cross-entropy of the target.
MASK_COST = 1.0
# Where masks start: a tenth of the way from the image to the pattern.
MASK_START = 0.1


def flip(logits: Callable, pairs: int = PAIRS, steps: int = STEPS) -> Harden:
    """Half of the images of each class that lies near another get that pair's trigger.

    The distance from class a to b is that of the minibatch's images of class a to the boundary
    between the two, to first order: (z_a - z_b) / |grad (z_a - z_b)| for logits z, at least 0
    (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, equation 8). The paper compares sizes of
    inverted masks instead, for which it inverts the triggers of all pairs.

    Args:
        logits: (params, images) -> [batch, class].
        pairs: of classes whose triggers are inverted, at least 1.
        steps: of Adam on masks and patterns, at least 0.

    Returns:
        (params, images [batch, height, width, channels] in [0, 1], labels [batch]) -> images. It
        is to be given one client's minibatch at a time: triggers are inverted from all of it.
    """

    def harden(params, images, labels):
        distances = class_distances(logits, params, images, labels)
        targets, chosen = nearest_pairs(distances, pairs)
        mask, pattern = invert(logits, params, images, labels, targets, steps)
        # Every other image of its class.
        same = labels[:, None] == labels[None]
        earlier = jnp.sum(same & jnp.tri(len(labels), k=-1, dtype=bool), axis=1)
        stamped = chosen[labels] & (earlier % 2 == 0)
        return jnp.where(_as_images(stamped), stamp(images, mask[labels], pattern[labels]), images)

    return harden


def class_distances(logits: Callable, params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How far classes are from one another, as far as a minibatch shows.

    Args:
        logits: (params, images) -> [batch, class].
        params: of the model.
        images: [batch, height, width, channels].
        labels: [batch].

    Returns:
        [source, target], in L2 distance of pixel intensities; infinite for sources that the
        minibatch lacks, and from a class to itself.
    """

    def margin(images, target):
        z = logits(params, images)
        own = jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0]
        return jnp.sum(own - z[:, target]), own - z[:, target]

    def to_target(target):
        (_, margins), gradients = jax.value_and_grad(margin, has_aux=True)(images, target)
        norms = jnp.sqrt(jnp.sum(gradients**2, axis=(1, 2, 3)))
        return jnp.maximum(margins, 0) / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny)

    distances = jax.vmap(to_target)(jnp.arange(CLASSES))  # [target, batch]
    members = jax.nn.one_hot(labels, CLASSES)  # [batch, source]
    counts = members.sum(0)
    mean = (distances @ members / jnp.maximum(counts, 1)[None]).T
    absent = (counts == 0)[:, None] | jnp.eye(CLASSES, dtype=bool)
    return jnp.where(absent, jnp.inf, mean)


def nearest_pairs(distances: jax.Array, pairs: int) -> tuple[jax.Array, jax.Array]:
    """The target nearest to each source, and whether the two are among the nearest pairs.

    Args:
        distances: [source, target].
        pairs: how many are chosen, at most.

    Returns:
        (targets int [source], chosen bool [source]).
    """
    nearest = distances.min(1)
    rank = jnp.argsort(jnp.argsort(nearest))
    return distances.argmin(1), (rank < pairs) & jnp.isfinite(nearest)


def invert(
    logits: Callable, params, images: jax.Array, labels: jax.Array, targets: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Find small triggers that turn the images of each class into its target.

    Args:
        logits: (params, images) -> [batch, class].
        params: of the model.
        images: [batch, height, width, channels].
        labels: [batch], the sources.
        targets: int [source].
        steps: of Adam, at least 0.

    Returns:
        (masks [source, height, width, 1], patterns [source, height, width, channels]), in (0, 1).
    """
    shape = (CLASSES, *images.shape[1:])
    start = jnp.log(MASK_START / (1 - MASK_START))
    trigger = jnp.full((*shape[:-1], 1), start), jnp.zeros(shape)
    optimizer = optax.adam(RATE)

    def loss(trigger):
        mask, pattern = map(jax.nn.sigmoid, trigger)
        z = logits(params, stamp(images, mask[labels], pattern[labels]))
        # Sums: the triggers of different sources do not influence one another.
        entropies = optax.softmax_cross_entropy_with_integer_labels(z, targets[labels])
        return entropies.sum() + MASK_COST * mask.mean((1, 2, 3))[labels].sum()

    def step(_, carry):
        trigger, state = carry
        updates, state = optimizer.update(jax.grad(loss)(trigger), state)
        return optax.apply_updates(trigger, updates), state

    trigger, _ = lax.fori_loop(0, steps, step, (trigger, optimizer.init(trigger)))
    return tuple(map(jax.nn.sigmoid, trigger))


def stamp(images: jax.Array, mask: jax.Array, pattern: jax.Array) -> jax.Array:
    """Put triggers on images: (1 - mask) image + mask pattern, with a leading axis each."""
    return (1 - mask) * images + mask * pattern


def _as_images(flags):
    return flags[:, None, None, None]
