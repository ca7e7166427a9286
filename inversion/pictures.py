"""Pictures: true images beside their reconstructions, and what a model looks at (Grad-CAM)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib as mpl
import metrics
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from fl.experiment import figures
from fl.experiment.names import display_name

COLUMNS = 8  # images side by side: the paper's batch
BLOCKS = 3  # batches below one another on a page
HEAT = "inferno"
STYLE = figures.STYLE | {"axes.grid": False, "axes.titlesize": 7, "image.interpolation": "none"}
# Inches.
_PANEL, _LINE, _GAP, _SIDE = 0.76, 0.13, 0.1, 0.6


def reconstruction_grid(
    true: jax.Array,
    reconstructions: dict[str, jax.Array],
    labels: Sequence[str],
    path_stem: Path,
) -> list[Path]:
    """Draw true images above their reconstructions, with the PSNR below each of these.

    Reconstructions are brightened to the full range of intensities: attacks that match directions
    find shapes, not brightness, and a dark picture would hide what leaks. PSNR is from before.

    Eight images stand side by side, three such batches below one another; more images go into
    further files, `<path_stem>-2` and so on.

    Args:
        true: images [image, height, width, channels] in [0, 1], one channel or three.
        reconstructions: algorithm to the reconstruction of each image, sizes as `true`. Where
            there is none, NaN: the panel says so.
        labels: what to write above each image, such as their classes.
        path_stem: path of the files without their type.

    Returns:
        Paths of the files, PDF and PNG in turn.

    Raises:
        ValueError: if there are no images, or not as many of everything.
    """
    true = np.asarray(true)
    rows = {display_name(name): np.asarray(images) for name, images in reconstructions.items()}
    _check(true, labels, {name: images.shape for name, images in rows.items()}, true.shape)
    paths, page = [], COLUMNS * BLOCKS
    with mpl.rc_context(STYLE):
        for number, start in enumerate(range(0, len(true), page), 1):
            part = slice(start, start + page)
            figure = _reconstruction_page(
                true[part], {name: images[part] for name, images in rows.items()}, labels[part]
            )
            stem = Path(path_stem)
            stem = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
            paths += figures.save(figure, stem)
    return paths


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
    _check(images, labels, {name: found.shape for name, found in maps.items()}, images.shape[:3])
    with mpl.rc_context(STYLE):
        return figures.save(_gradcam_page(images, maps, labels), Path(path_stem))


def _reconstruction_page(true, rows, labels):
    """A page of blocks: a row of true images, and one of each algorithm's reconstructions."""
    columns, blocks = min(COLUMNS, len(true)), -(-len(true) // COLUMNS)
    row = _PANEL + _LINE + _GAP / 2  # a panel, a line of text
    block = row * (1 + len(rows)) + _GAP
    # A page of few images still has room for the words below it.
    width = _SIDE + max(columns, 5) * (_PANEL + _GAP / 2)
    canvas = _Canvas(width, blocks * block + _LINE)
    for number, (image, label) in enumerate(zip(true, labels, strict=True)):
        left = _SIDE + number % COLUMNS * (_PANEL + _GAP / 2)
        top = number // COLUMNS * block + _LINE
        canvas.image(left, top, _PANEL, image, above=label)
        for line, reconstructions in enumerate(rows.values()):
            found = reconstructions[number]
            # One line more than for the true image, whose label is above.
            below = top + row + line * row - _LINE + _GAP / 2
            if np.isnan(found).any():
                canvas.text(left + _PANEL / 2, below + _PANEL / 2, "not found", ha="center")
                continue
            decibels = _decibels(image, found)
            canvas.image(left, below, _PANEL, _brightened(found), below=decibels)
    for number in range(blocks):
        top = number * block + _LINE
        for line, name in enumerate(["True image", *rows]):
            middle = top + row * line - (_LINE - _GAP / 2 if line else 0) + _PANEL / 2
            canvas.text(_SIDE - _GAP / 2, middle, _broken(name), ha="right", size=8)
            if line:
                under = middle + _PANEL / 2 + _LINE / 2
                canvas.text(_SIDE - _GAP / 2, under, "PSNR", ha="right", size=7)
    words = "Reconstructions are brightened to the full range; their PSNR is from before."
    canvas.text(width / 2, blocks * block + _LINE / 2, words, ha="center", size=7)
    return canvas.figure


def _gradcam_page(images, maps, labels):
    """A page of groups: an image and its heat maps, the label above the group."""
    groups = min(5, len(images))
    rows, wide = -(-len(images) // groups), 1 + len(maps)
    gap = 0.03
    panel = (figures.PAGE_WIDTH / 5 - _GAP) / wide - gap
    group = wide * (panel + gap) + _GAP
    row, head, foot = panel + _LINE + 0.05, 0.27, 0.28
    # A page of few images still has room for the scale of heat and its words.
    canvas = _Canvas(max(groups, 3) * group, head + rows * row + foot)
    for column in range(groups):
        for place, name in enumerate(["Image", *maps]):
            middle = _GAP / 2 + column * group + place * (panel + gap) + panel / 2
            canvas.text(middle, head / 2 - 0.02, _broken(name), ha="center", size=6.5)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = _GAP / 2 + number % groups * group
        top = head + number // groups * row + _LINE
        canvas.image(left, top, panel, image)
        middle = left + (wide * (panel + gap) - gap) / 2
        canvas.text(middle, top - _LINE / 2, label, ha="center", style="italic", size=7)
        for place, found in enumerate(maps.values(), 1):
            heat = mpl.colormaps[HEAT](found[number])[..., :3]
            canvas.image(left + place * (panel + gap), top, panel, heat)
    canvas.heat_scale(head + rows * row + 0.06)
    return canvas.figure


class _Canvas:
    """A figure on which things are placed in inches from the top left corner."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def image(self, left, top, side, pixels, above="", below=""):
        axis = self._axes(left, top, side, side)
        if pixels.shape[-1] == 1:
            pixels = pixels.repeat(3, axis=-1)
        axis.imshow(np.clip(pixels, 0, 1), aspect="auto")
        axis.set(xticks=[], yticks=[])
        # Many images are white at their edges, or black.
        axis.spines[:].set(visible=True, color="0.6", linewidth=0.4)
        axis.set_title(above, pad=2.5)
        axis.set_xlabel(below, labelpad=2, size=7)

    def heat_scale(self, top):
        width, height, middle = 1.2, 0.07, self.width / 2
        axis = self._axes(middle - width / 2, top, width, height)
        scale = self.figure.colorbar(
            ScalarMappable(cmap=HEAT), cax=axis, orientation="horizontal", ticks=[]
        )
        scale.outline.set_linewidth(0.4)
        line = top + height / 2
        words = ("does not count for the class", "counts most")
        self.text(middle - width / 2 - 0.05, line, words[0], ha="right", size=7)
        self.text(middle + width / 2 + 0.05, line, words[1], ha="left", size=7)

    def text(self, left, top, words, **settings):
        place = (left / self.width, 1 - top / self.height)
        self.figure.text(*place, words, va="center_baseline", **settings)

    def _axes(self, left, top, width, height):
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )


def _decibels(true, reconstruction):
    value = float(metrics.psnr(jnp.asarray(true, float), jnp.asarray(reconstruction, float)))
    return f"{min(value, metrics.PSNR_CAP):.1f} dB"


def _brightened(image):
    return image / max(image.max(), np.finfo(np.float32).tiny)


def _broken(name):
    return name.replace(" ", "\n")


def _check(images, labels, shapes, wanted):
    if len(images) == 0:
        raise ValueError("there are no images to draw")
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    for name, shape in shapes.items():
        if shape != wanted:
            raise ValueError(f"{name}: {shape} where the images need {wanted}")
