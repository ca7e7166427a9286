"""Assignment: which true image a reconstruction is scored against."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from image_metrics import PSNR_CAP, Metric, psnr
from jax import lax


class Images(NamedTuple):
    """Labelled images in minibatches, filled up to a common size.

    Attributes:
        pixels: float [..., image, height, width, channels], in [0, 1].
        labels: int [..., image], the true or the inferred ones.
        mask: bool [..., image], False for filling.
    """

    pixels: jax.Array
    labels: jax.Array
    mask: jax.Array


class Pairing(NamedTuple):
    """Which true image each reconstruction is scored against.

    Attributes:
        partner: int32 [..., reconstruction], an index into the true images of its minibatch; 0
            where there is none.
        matched: bool [..., reconstruction], whether there is one.
    """

    partner: jax.Array
    matched: jax.Array

    def take(self, images: jax.Array) -> jax.Array:
        """True images [..., image, height, width, channels] -> every reconstruction's partner."""
        return jnp.take_along_axis(images, self.partner[..., None, None, None], axis=-4)


def assign(reconstructed: Images, true: Images) -> Pairing:
    """One-to-one assignment within every minibatch, of the largest total PSNR.

    Labels play no part, so that neither repeated labels nor wrongly inferred ones change what a
    reconstruction is worth. Where a minibatch has more reconstructions than true images, those
    that would add least stay unmatched; otherwise every one has a partner.

    Runs on the host: for 100 minibatches of 8, SciPy takes 0.3 ms, which is less than
    `optax.assignment` needs, and that compiles for 2 s.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image], the same minibatches.

    Returns:
        The pairing. Ties, above `PSNR_CAP` too, are broken arbitrarily.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    # Here, as it takes long to import, which --help and --list need not wait for.
    from scipy.optimize import linear_sum_assignment

    gains = np.asarray(_gains(reconstructed.pixels, true.pixels))
    made, mask = np.asarray(reconstructed.mask), np.asarray(true.mask)
    partner, matched = np.zeros(made.shape, np.int32), np.zeros(made.shape, bool)
    for batch in np.ndindex(made.shape[:-1]):
        rows, columns = np.flatnonzero(made[batch]), np.flatnonzero(mask[batch])
        chosen, partners = linear_sum_assignment(gains[batch][np.ix_(rows, columns)], maximize=True)
        partner[batch][rows[chosen]] = columns[partners]
        matched[batch][rows[chosen]] = True
    return Pairing(jnp.asarray(partner), jnp.asarray(matched))


@jax.jit
def nearest(reconstructed: Images, true: Images) -> Pairing:
    """Pair each reconstruction with the true image of its label that has the best PSNR.

    For an aggregate's reconstructions, one a class, which no assignment can tell apart from those
    of hundreds of true images.

    Args:
        reconstructed: [..., reconstruction].
        true: [..., image].

    Returns:
        The pairing; a reconstruction whose label no true image has is not matched.

    Raises:
        ValueError: for images of different sizes or pixels that are not floats.
    """
    gains = _gains(reconstructed.pixels, true.pixels)
    same = same_label(reconstructed, true)
    partner = jnp.argmax(jnp.where(same, gains, -jnp.inf), axis=-1).astype(jnp.int32)
    return Pairing(partner, same.any(-1))


@partial(jax.jit, static_argnums=0)
def best_match(metric: Metric, reconstructed: Images, true: Images) -> tuple[jax.Array, jax.Array]:
    """Closeness to the best true image of each reconstruction's label, by one metric.

    What the published code does, with each metric choosing for itself.

    Args:
        metric: one of `METRICS`, or another such function.
        reconstructed: [..., reconstruction].
        true: [..., image].

    Returns:
        (closeness [..., reconstruction], matched [..., reconstruction]); closeness is minus
        infinity and matched False where no true image has the label.

    Raises:
        ValueError: for what the metric cannot take.
    """
    same = same_label(reconstructed, true)
    values = _pairwise(metric, reconstructed.pixels, true.pixels)
    return jnp.where(same, values, -jnp.inf).max(-1), same.any(-1)


def same_label(images, others):
    """Which pairs have the same label and are no filling, bool [..., image, other]."""
    alike = images.labels[..., :, None] == others.labels[..., None, :]
    return alike & images.mask[..., :, None] & others.mask[..., None, :]


def _pairwise(metric, reconstructed, true):
    """Each reconstruction against each true image of its minibatch, [..., reconstruction, image].

    One reconstruction of every minibatch after the other: all pairs at once take memory for
    batch-size times as many images.
    """
    values = lax.map(
        lambda images: metric(jnp.expand_dims(images, -4), true),
        jnp.moveaxis(reconstructed, -4, 0),
    )
    return jnp.moveaxis(values, 0, -2)


@jax.jit
def _gains(reconstructed, true):
    """Pairwise PSNR as something to rank by: an assignment has no use for infinity or NaN.

    NaN ranks first: of surplus reconstructions, the broken ones must not drop out unseen.
    """
    gains = jnp.clip(_pairwise(psnr, reconstructed, true), -PSNR_CAP, PSNR_CAP)
    return jnp.nan_to_num(gains, nan=2 * PSNR_CAP)
