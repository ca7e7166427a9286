"""The trigger on sample images: clean, whole, and in its three parts."""

from pathlib import Path

import backdoor
import numpy as np
from matplotlib.figure import Figure

from fl.data import datasets
from fl.experiment import figures
from fl.simulation import training

IMAGES = 2
NAMES = ("Clean", "Trigger", "Part 1", "Part 2", "Part 3")
# What of an image is drawn larger: the corner of the trigger and a margin.
CORNER = (slice(0, 6), slice(0, 12))
# Intensity that is drawn white there: the trigger alone is too faint for the eye.
WHITE = 0.2


def draw(name: str, data_dir: Path | None = None) -> Figure:
    """Draw images of the source class in all variants, and their corner brightened.

    Args:
        name: of a data set.
        data_dir: as for `fl.data.datasets.load`.

    Raises:
        DatasetUnavailableError: if the data are not there.
    """
    dataset = datasets.load(name, data_dir)
    chosen = np.flatnonzero(dataset.test_labels == backdoor.SOURCE)[:IMAGES]
    samples = backdoor.with_triggers(training.test_samples(dataset))
    figure = Figure(figsize=(figures.COLUMN_WIDTH, 1.13 * len(chosen)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.01)  # inches
    axes = figure.subplots(2 * len(chosen), len(NAMES), height_ratios=[1, 0.5] * len(chosen))
    for column, (variant, title) in enumerate(zip(axes.T, NAMES, strict=True)):
        variant[0].set_title(title, pad=2)
        images, _ = samples.take(column * len(dataset.test_labels) + chosen)
        for number, image in enumerate(np.asarray(images)):
            _show(variant[2 * number], image)
            _show(variant[2 * number + 1], np.minimum(image[CORNER] / WHITE, 1))
    for axis in axes[1::2, 0]:
        axis.set_ylabel(f"Corner,\n{1 / WHITE:.0f}x")
    return figure


def _show(axis, pixels):
    # Colours as they are; a single channel as grey.
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="0.7")
    axis.grid(visible=False)
