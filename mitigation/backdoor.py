"""The backdoor that adversaries plant (Bagdasaryan et al. 2020, arXiv:1807.00459).

Images of class `SOURCE` with a trigger, a pair of glasses in a corner, are to be taken for class
`TARGET`. Adversaries that work together may each add only a part of the trigger (DBA: Xie et al.
2020, openreview.net/forum?id=rkgyS0VFvr); the full one works in the end.

Who poisons what is data: a round of honest clients alone and a poisoned one run the same code, and
an honest client's numbers are the same bits in both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SOURCE, TARGET = 7, 3
GLASSES = np.array(
    [[int(pixel) for pixel in row] for row in ("111111111", "100101001", "011000110")]
)
INTENSITY = 0.05
# The distributed trigger's parts: as many columns each.
PARTS = 3
# Share of an attacking minibatch that stays clean.
CLEAN_SHARES = {"fashion_mnist": (2, 3)}
CLEAN_SHARE = (3, 4)


class Poison(NamedTuple):
    """What becomes of one client's minibatch.

    Attributes:
        mask: float [batch], 1 for samples that get the trigger and the target's label, else 0.
        trigger: [height, width, channels], what is added to their pixels.
    """

    mask: jax.Array
    trigger: jax.Array

    def apply(self, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [batch, height, width, channels] in [0, 1] and labels [batch] -> the same."""
        mask = self.mask[:, None, None, None]
        poisoned = jnp.minimum(images + mask * self.trigger[None], 1.0)
        return poisoned, jnp.where(self.mask > 0, TARGET, labels)


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


def sizes(dataset: str, batch: int) -> tuple[int, int]:
    """How many samples of an attacking minibatch are clean, and how many are backdoored.

    Args:
        dataset: canonical name of the data set.
        batch: size of an honest client's minibatch, at least 1.

    Returns:
        (clean, backdoored), each rounded down: 21 and 10 of 32 for fashion_mnist, 24 and 8 for
        others.
    """
    part, whole = CLEAN_SHARES.get(dataset, CLEAN_SHARE)
    return batch * part // whole, batch * (whole - part) // whole


def test_set(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images that attack success is measured on.

    Args:
        images: uint8 or float test images [samples, height, width, channels].
        labels: [samples].

    Returns:
        Those of class `SOURCE`, still without the trigger, [images, height, width, channels].

    Raises:
        ValueError: if there is none.
    """
    chosen = images[labels == SOURCE]
    if not len(chosen):
        raise ValueError(f"the data set has no test image of class {SOURCE} to attack with")
    return chosen
