"""Reconstructions: a grid of true images above what attacks made of each algorithm's messages."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from canvas import GAP, LINE, PANEL, STYLE, Canvas, broken, check
from image_metrics import PSNR_CAP, psnr

from fl.experiment import figures
from fl.experiment.names import display_name
from fl.experiment.tables import DASH

COLUMNS = 8  # images side by side: the paper's batch
BLOCKS = 3  # batches below one another on a page
SIDE = 0.6  # inches, for names on the left
# Of pages of panels: images side by side; inches of an image, between panels and for names.
MOST_SMALL, SMALL, BETWEEN, SMALL_SIDE = 15, 0.36, 0.11, 0.95


class Panel(NamedTuple):
    """True images above rows of reconstructions.

    Attributes:
        title: above it.
        true: images [image, height, width, channels] in [0, 1].
        rows: name to the reconstruction of each image; where there is none, NaN.
    """

    title: str
    true: np.ndarray
    rows: dict[str, np.ndarray]


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


def panel_page(panels: Sequence[Panel], words: Sequence[str], path_stem: Path) -> list[Path]:
    """Draw panels beside one another, with the mean PSNR below each of their rows.

    Reconstructions are brightened as by `reconstruction_grid`. Panels that do not fit beside the
    others go on below.

    Args:
        panels: with the same rows, each of a few images.
        words: lines below all of them.
        path_stem: path of the files without their type.

    Returns:
        Paths of the files, PDF and PNG.

    Raises:
        ValueError: if there are no images, or not as many of everything.
    """
    for panel in panels:
        shapes = {name: found.shape for name, found in panel.rows.items()}
        check(panel.true, panel.true, shapes, panel.true.shape)
    with mpl.rc_context(STYLE):
        figure = _panels(panels, words)
        return figures.save(figure, Path(path_stem))


def _panels(panels, words):
    names = max((panel.rows for panel in panels), key=len)
    row = SMALL + LINE + GAP / 4  # images, and a line of text
    height = LINE + row * (1 + len(names)) + GAP / 2
    lines = _lines(panels)
    canvas = Canvas(figures.PAGE_WIDTH, len(lines) * height + LINE * len(words))
    for number, line in enumerate(lines):
        left, top = SMALL_SIDE, number * height + LINE
        for place, name in enumerate(["True image", *names]):
            middle = top + place * row + SMALL / 2
            canvas.text(left - GAP, middle, name.replace(", ", "\n"), ha="right", size=7)
        for panel in line:
            right = left + len(panel.true) * (SMALL + BETWEEN / 4) - BETWEEN / 4
            canvas.text((left + right) / 2, top - LINE / 2, panel.title, ha="center", size=7)
            _small_row(canvas, left, top, panel.true)
            for place, name in enumerate(names, 1):
                if name in panel.rows:
                    found, below = panel.rows[name], top + place * row
                    _small_row(canvas, left, below, list(map(_brightened, found)))
                    text = f"{_mean_psnr(panel.true, found):.1f} dB"
                    under = below + SMALL + LINE / 2
                    canvas.text((left + right) / 2, under, text, ha="center", size=7)
            left = right + BETWEEN
    for number, text in enumerate(words):
        under = len(lines) * height + LINE * (number + 0.5)
        canvas.text(figures.PAGE_WIDTH / 2, under, text, ha="center", size=7)
    return canvas.figure


def _lines(panels):
    """Panels in lines that are not too long."""
    lines, held = [], MOST_SMALL
    for panel in panels:
        if held + len(panel.true) > MOST_SMALL:
            lines.append([])
            held = 0
        lines[-1].append(panel)
        held += len(panel.true)
    return lines


def _small_row(canvas, left, top, images):
    for place, image in enumerate(images):
        start = left + place * (SMALL + BETWEEN / 4)
        if np.isnan(image).any():
            canvas.text(start + SMALL / 2, top + SMALL / 2, DASH, ha="center")
        else:
            canvas.image(start, top, SMALL, image)


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
    return f"{_psnr(true, reconstruction):.1f} dB"


def _mean_psnr(true, reconstructions):
    """Over the images that there is a reconstruction of."""
    found = ~np.isnan(reconstructions).any((1, 2, 3))
    return np.mean([_psnr(*pair) for pair in zip(true[found], reconstructions[found], strict=True)])


def _psnr(true, reconstruction):
    return min(float(psnr(jnp.asarray(true, float), jnp.asarray(reconstruction, float))), PSNR_CAP)


def _brightened(image):
    return image / max(image.max(), np.finfo(np.float32).tiny)
