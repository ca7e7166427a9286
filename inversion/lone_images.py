"""How many images stand alone in what a server makes of an aggregate's ratios.

A hidden unit that only one of the images activates has that image alone in its column of the
gradient: its outline, and its values up to a gain for each pixel. Of more than 16 images,
`adaptive` looks for such columns (`single_images`). Here someone does who knows the images: that is
no attack, but says what one might find. Options are those of main.py.

    python lone_images.py -d fashion_mnist -o secadam --attack adaptive --pgd-step 0 -b 1 -n 20
"""

import sys
from typing import NamedTuple

import federation
import jax
import jax.numpy as jnp
import numpy as np
from adaptive import MOST_IMAGES
from assignment import Images
from calibration import CannotCalibrateError
from closeness import RECOGNISABLE, recovered
from grid import grid
from option_checks import check
from options import Options, resolve
from runs import describe
from scores import UNKNOWN
from single_images import single_images
from threat_model import WindowView
from window_gradients import layer_gradients

from fl.data.catalogue import DATASETS
from fl.experiment.options import parse
from fl.experiment.startup import begin
from fl.simulation.mapping import is_convolutional
from fl.simulation.models import MODELS

# Share of the largest entry of a column below which a pixel counts as black, and share of pixels
# that an outline and that of an image have in common, of those in either, from which they are one.
BLACK, ALIKE = 1e-3, 0.97


class Lone(NamedTuple):
    """Columns that hold a single image.

    Attributes:
        round: int [column], of the window.
        unit: int [column].
        image: int [column], of those of the round.
    """

    round: np.ndarray
    unit: np.ndarray
    image: np.ndarray


def lone_columns(weights: np.ndarray, images: np.ndarray) -> Lone:
    """Find the columns with the outline of one of the images.

    Args:
        weights: gradients of a dense layer's kernel [round, pixel, unit].
        images: [round, image, pixel].
    """
    found = []
    for number, (gradient, shown) in enumerate(zip(np.abs(weights), images > 0, strict=True)):
        outlines = gradient > BLACK * gradient.max(0)
        common = shown.astype(int) @ outlines
        either = shown.sum(1)[:, None] + outlines.sum(0) - common
        share = common / np.maximum(either, 1)
        units = np.flatnonzero(share.max(0) > ALIKE)
        found += [(number, unit, share[:, unit].argmax()) for unit in units]
    return Lone(*np.array(found, int).reshape(-1, 3).T)


def psnr_with_gains(
    gradients: np.ndarray, images: np.ndarray, lone: Lone, rng: np.random.Generator
) -> np.ndarray:
    """PSNR of lone images once gains are known, in dB: of each of one half, by gains of the other.

    Args:
        gradients: of kernel and bias [round, pixel + 1, unit].
        images: as for `lone_columns`.
        lone: what that found.
        rng: halves them.
    """
    columns = gradients[lone.round, :, lone.unit]
    quotients = columns[:, :-1] / columns[:, -1:]
    true = images[lone.round, lone.image]
    owner = lone.round * images.shape[1] + lone.image
    first = np.isin(owner, rng.permutation(np.unique(owner))[::2])
    known = (true > 0) & (quotients != 0)
    ratios = np.where(known, true / np.where(known, quotients, 1), np.nan)[first]
    seen = known[first].any(0)  # what no image of this half shows stays black
    gains = np.zeros(len(seen))
    gains[seen] = np.nanmedian(ratios[:, seen], axis=0)
    errors = np.square(np.clip(quotients * gains, 0, 1) - true).mean(1)
    decibels = -10 * np.log10(np.maximum(errors, 1e-10))
    return np.array([decibels[owner == who].max() for who in np.unique(owner[~first])])


def main() -> int:
    """Train and watch what the options say, and print what stands alone; 0, or 1 where none can."""
    options, parser = parse(Options, __doc__)
    options = resolve(options)
    check(options, parser)
    begin(options, parser)
    runs = list(grid(options))
    for run in runs:
        if run.window is None or run.algorithm_name != "secadam":
            parser.error("argument --attack: needs adaptive, on secadam")
        if is_convolutional(_shapes(run)):
            parser.error(f"argument -m/--model: the first layer of {run.model} is not dense")
    for run in runs:
        try:
            print(f"{describe(run)}: {_examine(run, options)}")
        except CannotCalibrateError as error:
            print(f"{describe(run)}: {error}", file=sys.stderr)
            return 1
    return 0


def _shapes(run):
    example = jnp.zeros((1, *DATASETS[run.dataset].image_shape))
    return jax.eval_shape(MODELS[run.model]().init, jax.random.key(0), example)


def _examine(run, options):
    """What stands alone in a run's window, in words."""
    trained = federation.train(run, options.data_dir, options.results, {run.rounds_before})
    window, indices = federation.watch_window(trained, run, range(0))
    trained.remove_checkpoints()
    view = WindowView(window.aggregate, window.params, window.first, run.clients, trained.public)
    path, _ = trained.public.layers()[0]
    with jax.enable_x64(True):
        gradients = np.asarray(layer_gradients(view, path))
    last = indices[-len(gradients) :].reshape(len(gradients), -1)
    images = np.asarray(trained.samples.take(jnp.asarray(last))[0]).reshape(*last.shape, -1)
    lone = lone_columns(gradients[:, :-1], images)
    shape = trained.public.image_shape
    found = single_images(gradients, len(gradients), MOST_IMAGES, shape)
    share = recovered(*(_unlabelled(pixels, shape) for pixels in (found, images)))
    alone = (
        f"{len(set(zip(*lone[::2], strict=True)))} of {last.size} images stand alone in a column; "
        f"one who knows none finds {share * last.size:.0f} above {RECOGNISABLE:g} dB"
    )
    decibels = psnr_with_gains(gradients, images, lone, np.random.default_rng(0))
    if not len(decibels):
        return alone
    return (
        f"{alone}; with gains from half of them, {(decibels > RECOGNISABLE).sum()} of the other "
        f"{len(decibels)} are above {RECOGNISABLE:g} dB, the median at {np.median(decibels):.1f}"
    )


def _unlabelled(pixels, shape):
    """[round, image, pixel] -> images to score."""
    there = pixels.shape[:2]
    pixels = jnp.asarray(pixels, jnp.float32).reshape(*there, *shape)
    return Images(pixels, np.full(there, UNKNOWN), np.ones(there, bool))


if __name__ == "__main__":
    sys.exit(main())
