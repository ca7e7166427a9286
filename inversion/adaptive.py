"""The adaptive attack: what a server that knows Adam makes of the ratios of many rounds.

It is told the architecture, the decays and what the server sees; neither labels nor data.

1. `ratio.follow` undoes the ratio: gradients up to a factor for each entry.
2. `calibration.calibrate` finds the factors in the first dense layer, from the gradients' rank.
3. `disaggregation.disaggregate` takes the gradients apart into images, up to a gain for each pixel.
4. `pixel_gains` finds the gains: by the steps of intensity, and by what the layer that follows saw
   of the images.

Once gains are known, the layer's weights tell images from mixtures of them. So where several images
make a gradient, steps 3 and 4 are taken again, as long as less contradicts the images.

Of more than `MOST_IMAGES` images, which cannot be told apart, those are found that some unit's
gradients hold nearly alone (`single_images`).

Where the rank says nothing, as in a first round or with as many images as units, or where the
first layer is not dense, the direction of the last round's gradient is matched instead
(`direction_matching`). So it is under differential privacy, whose noise leaves no rank, and of the
aggregate of clients that send their own ratios, the mean of which is none.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from analytic import least_squares
from calibration import CannotCalibrateError
from direction_matching import by_direction
from disaggregation import Disaggregated, disaggregate
from jax import lax
from neighbours import capped
from pixel_gains import PixelGains, by_activations, by_patterns, evidence, refine
from single_images import single_images
from threat_model import PublicKnowledge, WindowView
from window_gradients import (
    beyond_rank,
    images_behind,
    is_one_ratio,
    layer_gradients,
    layer_rows,
)

# Rounds at the end of the window whose images are reconstructed.
SCORED = 8
# Images that are looked for in a round, at most; gradients of more are not taken apart.
MOST_IMAGES = 16
# Images that tell pixels' gains, at most: those of all rounds, or if these are too many, of some.
IMAGES_FOR_GAINS = 768
# Times that their images are looked for, at most: gains tell images, and images gains.
PASSES = 4
# Zero derivatives from which an image is relied on.
CERTAIN = 10


class WindowAttack(NamedTuple):
    """An attack on a window of rounds.

    Attributes:
        reconstruct: (`WindowView`, key) -> images [scored round, image, height, width, channels] in
            [0, 1] of the last rounds, `SCORED` of them or fewer; of one round where directions are
            matched.
        from_gradients: (gradients [round, ...] shaped like params otherwise, images behind each,
            key) -> images likewise: what the attack would make of the gradients themselves, the
            most that it can reach.
    """

    reconstruct: Callable
    from_gradients: Callable


def adaptive(match: Callable, public: PublicKnowledge) -> WindowAttack:
    """Build the attack.

    Args:
        match: public -> the `Problem` of matching a gradient's direction.
        public: what everyone knows.

    Raises:
        ValueError: for an algorithm whose clients do not run Adam.
    """
    kept = jax.tree.leaves(
        public.algorithm.init_client(jnp.zeros(1)),
        is_leaf=lambda part: isinstance(part, optax.ScaleByAdamState),
    )
    if not any(isinstance(part, optax.ScaleByAdamState) for part in kept):
        raise ValueError(
            "the adaptive attack undoes the ratio of Adam's moments, which these clients do not "
            "send: their messages are gradients, for which the exact attack is made"
        )
    path, layer = public.layers()[0]
    dense = layer is nn.Dense

    def reconstruct(view: WindowView, key):
        with jax.enable_x64(True):
            if dense and is_one_ratio(view):
                try:
                    return _by_rank(view, path, key)
                except CannotCalibrateError:
                    pass
        return by_direction(view, match, MOST_IMAGES, key)

    def from_gradients(gradients, images, key):
        if not dense:
            raise ValueError("gradients of convolutions are not taken apart")
        with jax.enable_x64(True):
            rows = layer_rows(gradients, path)
            if images > MOST_IMAGES:
                return _as_images(_singled_out(rows, public, np.ones(rows.shape[1] - 1)), public)
            found = _take_apart(rows, images, key, bounded=True)
            return _as_images(found.images, public)

    return WindowAttack(reconstruct, from_gradients)


def _by_rank(view, path, key):
    """Steps 1 to 4."""
    public, images = view.public, images_behind(view)
    gradients = layer_gradients(view, path)
    if images > MOST_IMAGES:
        return _as_images(_singled_out(gradients, public), public)
    last, some = gradients[-SCORED:], _rounds_for_gains(gradients, images)
    gradients = gradients[some]  # from here on, of all rounds there is one copy at most
    gains = _gains(view, path, some, gradients, images, key)
    weights = layer_rows(view.params, path, slice(-SCORED, None)) if gains.likely else None
    found = _take_apart(_lit(last, gains.of_pixels), images, key, gains.likely, weights)
    return _as_images(found.images, public)


def _singled_out(gradients, public, gains=None):
    """Images of the last rounds that stand nearly alone."""
    rounds = min(SCORED, len(gradients))
    return jnp.asarray(
        single_images(np.asarray(gradients), rounds, MOST_IMAGES, public.image_shape, gains)
    )


def _gains(view, path, some, gradients, images, key) -> PixelGains:
    """Gains of pixels, by images found in some rounds, and found better once gains are known."""
    weights, public = layer_rows(view.params, path, some), view.public

    def look(gains=None):
        if gains is None:
            found = _take_apart(gradients, images, key)
        else:
            found = _take_apart(_lit(gradients, gains), images, key, weights=weights)
            unlit = jnp.where(gains > 0, 1 / jnp.where(gains > 0, gains, 1), 0)
            found = found._replace(images=found.images * unlit[None, None])
        return evidence(found, np.asarray(found.certainty >= CERTAIN), weights, public)

    first = look()

    def passes(way):
        best = refine(first, way(first, public), public)
        for _ in range(PASSES - 1 if images > 1 else 0):
            if best.exact or not best.likely:
                break
            # What was taken for black may be what few images show.
            unsure = jnp.where(best.of_pixels > 0, best.of_pixels, jnp.inf)
            gains = capped(unsure, public.image_shape)
            again = look(gains)
            known = refine(again, way(again, public, gains), public)
            if known.contradicted >= best.contradicted:
                break
            best = known
        return best

    best = passes(partial(by_activations, _second_layer(view, some)))
    if images == 1 or best.exact:
        return best
    return min(best, passes(by_patterns), key=lambda known: known.contradicted)


def _rounds_for_gains(gradients, images):
    """The rounds to find gains by, as negative numbers: those of the soundest gradients."""
    soundest = np.argsort(beyond_rank(gradients, images), stable=True)
    return np.sort(soundest[: IMAGES_FOR_GAINS // images]) - len(gradients)


def _second_layer(view, rounds):
    """Gradients of the second layer in some rounds, if there is one, and it is dense."""
    _, *rest = view.public.layers()
    if not rest or rest[0][1] is not nn.Dense:
        return None
    try:
        return layer_gradients(view, rest[0][0])[rounds]
    except CannotCalibrateError:
        return None


def _lit(gradients, gains):
    """Gradients whose pixels have their gains."""
    return gradients * jnp.append(gains, 1)[None, :, None]


def _take_apart(gradients, images, key, bounded=False, weights=None):
    """`Disaggregated` [round, ...], the images that are surest first."""
    if images == 1:  # there is nothing to take apart
        found = lax.map(lambda gradient: least_squares(gradient[:-1], gradient[-1]), gradients)
        certainty = jnp.full((len(found), 1), CERTAIN)
        heard = jnp.ones_like(gradients[:, -1], bool)
        return Disaggregated(found[:, None], certainty, gradients[:, -1:] == 0, heard)
    parts = [
        disaggregate(
            gradient,
            images,
            jax.random.fold_in(key, number),
            bounded=bounded,
            weights=None if weights is None else weights[number],
        )
        for number, gradient in enumerate(gradients)
    ]
    found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    surest = jnp.argsort(-found.certainty, axis=1)

    def those(leaf):
        return jnp.take_along_axis(leaf, surest[:, :, None], axis=1)

    certainty = jnp.take_along_axis(found.certainty, surest, axis=1)
    return Disaggregated(those(found.images), certainty, those(found.silent), found.heard)


def _as_images(pixels, public):
    pixels = jnp.nan_to_num(pixels)  # black, where nothing was found
    return (
        jnp.clip(pixels, 0, 1).astype(jnp.float32).reshape(*pixels.shape[:-1], *public.image_shape)
    )
