"""Reconstructions: a grid of true images above what attacks made of each algorithm's messages."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from canvas import GAP, LINE, PANEL, STYLE, Canvas, broken, check
from image_metrics import PSNR_CAP, psnr

from fl.experiment import figures
from fl.experiment.names import display_name

COLUMNS = 8  # images side by side: the paper's batch
BLOCKS = 3  # batches below one another on a page
SIDE = 0.6  # inches, for names on the left


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
    check(true, labels, {name: images.shape for name, images in rows.items()}, true.shape)
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


def _reconstruction_page(true, rows, labels):
    """A page of blocks: a row of true images, and one of each algorithm's reconstructions."""
    columns, blocks = min(COLUMNS, len(true)), -(-len(true) // COLUMNS)
    row = PANEL + LINE + GAP / 2  # a panel, a line of text
    block = row * (1 + len(rows)) + GAP
    # A page of few images still has room for the words below it.
    width = SIDE + max(columns, 5) * (PANEL + GAP / 2)
    canvas = Canvas(width, blocks * block + LINE)
    for number, (image, label) in enumerate(zip(true, labels, strict=True)):
        left = SIDE + number % COLUMNS * (PANEL + GAP / 2)
        top = number // COLUMNS * block + LINE
        canvas.image(left, top, PANEL, image, above=label)
        for line, reconstructions in enumerate(rows.values()):
            found = reconstructions[number]
            # One line more than for the true image, whose label is above.
            below = top + row + line * row - LINE + GAP / 2
            if np.isnan(found).any():
                canvas.text(left + PANEL / 2, below + PANEL / 2, "not found", ha="center")
                continue
            decibels = _decibels(image, found)
            canvas.image(left, below, PANEL, _brightened(found), below=decibels)
    for number in range(blocks):
        top = number * block + LINE
        for line, name in enumerate(["True image", *rows]):
            middle = top + row * line - (LINE - GAP / 2 if line else 0) + PANEL / 2
            canvas.text(SIDE - GAP / 2, middle, broken(name), ha="right", size=8)
            if line:
                under = middle + PANEL / 2 + LINE / 2
                canvas.text(SIDE - GAP / 2, under, "PSNR", ha="right", size=7)
    words = "Reconstructions are brightened to the full range; their PSNR is from before."
    canvas.text(width / 2, blocks * block + LINE / 2, words, ha="center", size=7)
    return canvas.figure


def _decibels(true, reconstruction):
    value = float(psnr(jnp.asarray(true, float), jnp.asarray(reconstruction, float)))
    return f"{min(value, PSNR_CAP):.1f} dB"


def _brightened(image):
    return image / max(image.max(), np.finfo(np.float32).tiny)
