"""The backdoor that adversaries plant (Bagdasaryan et al. 2020, arXiv:1807.00459).

Images of class `SOURCE` with a trigger, a pair of glasses in a corner, are to be taken for class
`TARGET`. Adversaries that work together may each add only a part of the trigger (DBA: Xie et al.
2020, openreview.net/forum?id=rkgyS0VFvr); the full one works in the end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fl.data.datasets import Dataset
from fl.simulation.training import Samples

SOURCE, TARGET = 7, 3
GLASSES = np.array(
    [[int(pixel) for pixel in row] for row in ("111111111", "100101001", "011000110")]
)
INTENSITY = 0.05
# The distributed trigger's parts: as many columns each.
PARTS = 3
# Variants of an image, in order: clean, with the whole trigger, and with each of its parts.
CLEAN, WHOLE, FIRST_PART = 0, 1, 2


class TriggeredSamples(NamedTuple):
    """Labelled images, each as it is and in variants that carry the trigger.

    Sample s has the index v * samples + s in variant v: 0 is clean, 1 has the full trigger, 2 to 4
    have its parts.

    Attributes:
        samples: the clean ones.
        triggers: float [variant, height, width, channels], the first all 0.
    """

    samples: Samples
    triggers: jax.Array

    def take(self, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Indices [...] -> images [..., height, width, channels] in [0, 1] and labels [...].

        Variants but the clean one are labelled `TARGET`, whatever they show.
        """
        count = len(self.samples.labels)
        images, labels = self.samples.take(indices % count)
        variants = indices // count
        images = jnp.minimum(images + self.triggers[variants], 1.0)
        return images, jnp.where(variants == CLEAN, labels, TARGET)

    def only(self, indices: np.ndarray) -> tuple["TriggeredSamples", np.ndarray]:
        """As `Samples.only`."""
        count = len(self.samples.labels)
        samples, places = self.samples.only(indices % count)
        return self._replace(samples=samples), indices // count * places.size + places


def with_triggers(samples: Samples) -> TriggeredSamples:
    """Add the variants to samples.

    Raises:
        ValueError: if the images are smaller than the trigger.
    """
    shape = samples.images.shape[1:]
    parts = [trigger(shape, part) for part in range(PARTS)]
    triggers = np.stack([np.zeros(shape), trigger(shape), *parts])
    return TriggeredSamples(samples, jnp.asarray(triggers, float))


def trigger(shape: tuple[int, int, int], part: int | None = None) -> np.ndarray:
    """The trigger's pixel intensities.

    Args:
        shape: (height, width, channels) of the images.
        part: of the distributed trigger, 0 to 2, which leaves the rest out; None for all of it.

    Returns:
        float32 [height, width, channels]: what to add to an image, 0 outside the trigger.

    Raises:
        ValueError: if the images are smaller than the trigger, or there is no such part.
    """
    rows, columns = GLASSES.shape
    if shape[0] < rows or shape[1] < columns:
        raise ValueError(
            f"the trigger needs images of at least {rows}x{columns} pixels, got "
            f"{shape[0]}x{shape[1]}"
        )
    if part is not None and part not in range(PARTS):
        raise ValueError(f"part must be 0 to {PARTS - 1}, got {part}")
    glasses = GLASSES.astype(np.float32)
    if part is not None:
        width = columns // PARTS
        own = np.arange(columns) // width == part
        glasses = glasses * own
    intensities = np.zeros(shape, np.float32)
    intensities[:rows, :columns] = INTENSITY * glasses[..., None]
    return intensities


def check(dataset: Dataset) -> None:
    """Make sure that a data set can be attacked.

    Raises:
        ValueError: if its images are smaller than the trigger, or if it lacks one of the classes.
    """
    trigger(dataset.train_images.shape[1:])
    parts = {"training": dataset.train_labels, "test": dataset.test_labels}
    for part, labels in parts.items():
        for label in (SOURCE, TARGET):
            if not (labels == label).any():
                raise ValueError(
                    f"the backdoor turns class {SOURCE} into class {TARGET}, and there is no "
                    f"{part} image of class {label}"
                )
