"""A canvas for pictures: images and words placed in inches, and what all pages of them share."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl.experiment import figures

STYLE = figures.STYLE | {"axes.grid": False, "axes.titlesize": 7, "image.interpolation": "none"}
# Inches: the side of a panel, the height of a line of text, gaps.
PANEL, LINE, GAP = 0.76, 0.13, 0.1


class Canvas:
    """A figure on which things are placed in inches from the top left corner."""

    def __init__(self, width: float, height: float):
        """Make an empty one of a size in inches."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def image(self, left, top, side, pixels: np.ndarray, above: str = "", below: str = "") -> None:
        """Draw pixels [height, width, channels] as a square, with words above and below it."""
        axis = self.axes(left, top, side, side)
        if pixels.shape[-1] == 1:
            pixels = pixels.repeat(3, axis=-1)
        axis.imshow(np.clip(pixels, 0, 1), aspect="auto")
        axis.set(xticks=[], yticks=[])
        # Many images are white at their edges, or black.
        axis.spines[:].set(visible=True, color="0.6", linewidth=0.4)
        axis.set_title(above, pad=2.5)
        axis.set_xlabel(below, labelpad=2, size=7)

    def text(self, left: float, top: float, words: str, **settings) -> None:
        """Write words whose middle is `top` below the upper edge."""
        place = (left / self.width, 1 - top / self.height)
        self.figure.text(*place, words, va="center_baseline", **settings)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Place axes."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )


def broken(name: str) -> str:
    """A name with a line for each word."""
    return name.replace(" ", "\n")


def check(
    images: np.ndarray,
    labels: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    wanted: tuple[int, ...],
) -> None:
    """Make sure that what a page shows belongs together.

    Args:
        images: [image, ...].
        labels: of the images.
        shapes: of what is drawn beside them, by algorithm.
        wanted: the shape that each of these needs.

    Raises:
        ValueError: if there are no images, or not as many of everything.
    """
    if len(images) == 0:
        raise ValueError("there are no images to draw")
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    for name, shape in shapes.items():
        if shape != wanted:
            raise ValueError(f"{name}: {shape} where the images need {wanted}")
