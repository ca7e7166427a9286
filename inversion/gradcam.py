"""Grad-CAM: heat maps of what a model looks at, and a page of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from canvas import GAP, LINE, STYLE, Canvas, broken, check
from matplotlib.cm import ScalarMappable

from fl.experiment import figures
from fl.experiment.names import display_name

HEAT = "inferno"
GROUPS = 5  # images with their heat maps side by side


def gradcam(model: nn.Module, params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Heat maps of what speaks for a class (Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391).

    The features are those of the last ReLU before the last max-pool. Each channel weighs as much
    as the mean gradient of the class's logit over its pixels; of the weighted sum, what is
    positive counts.

    Args:
        model: of `fl.simulation.models`, with convolutions.
        params: its parameters.
        images: [batch, height, width, channels] in [0, 1].
        labels: classes [batch], 0 to 9, to explain.

    Returns:
        Maps [batch, height, width], bilinearly enlarged to the images' size, each divided by its
        largest value; all 0 where nothing speaks for the class.

    Raises:
        ValueError: if the model has no convolutions.
    """
    _, state = jax.eval_shape(partial(model.apply, mutable="intermediates"), params, images)
    if "features" not in state.get("intermediates", {}):
        raise ValueError(
            f"Grad-CAM needs a model with convolutions: {type(model).__name__} has none"
        )
    (shape,) = state["intermediates"]["features"]
    return _gradcam(model, params, images, jnp.asarray(labels), shape.shape)


@partial(jax.jit, static_argnums=(0, 4))
def _gradcam(model, params, images, labels, shape):
    def score(offset):
        variables = {**params, "perturbations": {"features": offset}}
        logits, state = model.apply(variables, images, mutable="intermediates")
        # Images do not mix: the sum's gradient is every image's own.
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1).sum()
        return chosen, state["intermediates"]["features"][0]

    gradients, features = jax.grad(score, has_aux=True)(jnp.zeros(shape))
    weights = gradients.mean((1, 2), keepdims=True)
    maps = nn.relu((weights * features).sum(-1))
    maps = jax.image.resize(maps, images.shape[:3], "bilinear")
    largest = maps.max((1, 2), keepdims=True)
    return maps / jnp.where(largest > 0, largest, 1)


def gradcam_grid(
    images: jax.Array, maps: dict[str, jax.Array], labels: Sequence[str], path_stem: Path
) -> list[Path]:
    """Draw images beside the heat maps of several models.

    Args:
        images: [image, height, width, channels] in [0, 1]; 25 fill five rows of five.
        maps: algorithm to heat maps [image, height, width] in [0, 1], see `gradcam`.
        labels: what to write above each image: the class that the maps explain.
        path_stem: path of the files without their type.

    Returns:
        Paths of the files: PDF and PNG.

    Raises:
        ValueError: if there are no images, or not as many of everything.
    """
    images = np.asarray(images)
    maps = {display_name(name): np.asarray(found) for name, found in maps.items()}
    check(images, labels, {name: found.shape for name, found in maps.items()}, images.shape[:3])
    with mpl.rc_context(STYLE):
        return figures.save(_gradcam_page(images, maps, labels), Path(path_stem))


def _gradcam_page(images, maps, labels):
    """A page of groups: an image and its heat maps, the label above the group."""
    groups = min(GROUPS, len(images))
    rows, wide = -(-len(images) // groups), 1 + len(maps)
    gap = 0.03
    panel = (figures.PAGE_WIDTH / GROUPS - GAP) / wide - gap
    group = wide * (panel + gap) + GAP
    row, head, foot = panel + LINE + 0.05, 0.27, 0.28
    # A page of few images still has room for the scale of heat and its words.
    canvas = Canvas(max(groups, 3) * group, head + rows * row + foot)
    for column in range(groups):
        for place, name in enumerate(["Image", *maps]):
            middle = GAP / 2 + column * group + place * (panel + gap) + panel / 2
            canvas.text(middle, head / 2 - 0.02, broken(name), ha="center", size=6.5)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = GAP / 2 + number % groups * group
        top = head + number // groups * row + LINE
        canvas.image(left, top, panel, image)
        middle = left + (wide * (panel + gap) - gap) / 2
        canvas.text(middle, top - LINE / 2, label, ha="center", style="italic", size=7)
        for place, found in enumerate(maps.values(), 1):
            heat = mpl.colormaps[HEAT](found[number])[..., :3]
            canvas.image(left + place * (panel + gap), top, panel, heat)
    _heat_scale(canvas, head + rows * row + 0.06)
    return canvas.figure


def _heat_scale(canvas, top):
    width, height, middle = 1.2, 0.07, canvas.width / 2
    scale = canvas.figure.colorbar(
        ScalarMappable(cmap=HEAT),
        cax=canvas.axes(middle - width / 2, top, width, height),
        orientation="horizontal",
        ticks=[],
    )
    scale.outline.set_linewidth(0.4)
    line = top + height / 2
    words = ("does not count for the class", "counts most")
    canvas.text(middle - width / 2 - 0.05, line, words[0], ha="right", size=7)
    canvas.text(middle + width / 2 + 0.05, line, words[1], ha="left", size=7)
