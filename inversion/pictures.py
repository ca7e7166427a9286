"""The pictures of --gen-images and --gradcams: federations of several algorithms side by side."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import federation
import jax.numpy as jnp
import numpy as np
from federation import Trained
from gradcam import gradcam, gradcam_grid
from reconstruction import attack
from reconstruction_grid import BLOCKS, reconstruction_grid
from runs import Run, describe
from scores import by_true_image

from fl.data.catalogue import DATASETS
from fl.experiment.program import load, run_grid

# Clients whose minibatches are shown: as many as fill a page.
CLIENTS = BLOCKS
# Test images that heat maps are drawn for.
IMAGES = 25

Federations = Iterator[tuple[Run, Trained]]


class Kind(NamedTuple):
    """A kind of pictures.

    Attributes:
        name: how its files are called.
        page: (federations, data_dir, path of the files without their type) -> the files.
    """

    name: str
    page: Callable[[Federations, Path | None, Path], list[Path]]


def draw(
    kind: Kind, runs: list[Run], results_path: Path, data_dir: Path | None, skip_done: bool
) -> int:
    """Train, and draw pictures into figures/ beside the results.

    Args:
        kind: `RECONSTRUCTIONS` or `HEAT_MAPS`.
        runs: all algorithms of a data set, model and seed stand on a page.
        results_path: the results file, to which nothing is added.
        data_dir: as for `fl.data.datasets.load`.
        skip_done: leave out pages that are there.

    Returns:
        The exit status, as of `run_grid`.
    """
    folder = results_path.parent / "figures"
    runs = sorted(runs, key=_place)
    pages = [list(same) for _, same in itertools.groupby(runs, _place)]
    if skip_done:
        left = [
            page for page in pages if not _stem(folder, kind, page[0]).with_suffix(".png").exists()
        ]
        if len(left) < len(pages):
            print(f"{len(pages) - len(left)} of {len(pages)} pictures are there: skipped")
        pages = left

    def draw_page(runs):
        checkpoints = []
        federations = _trained(runs, data_dir, results_path, checkpoints)
        for path in kind.page(federations, data_dir, _stem(folder, kind, runs[0])):
            print(path)
        for checkpoint in checkpoints:
            checkpoint.unlink(missing_ok=True)

    return run_grid(pages, draw_page, lambda page: describe(page[0]))


def _place(run):
    return run.dataset, run.model, run.seed


def _stem(folder, kind, run):
    return folder / f"{kind.name}_{run.dataset}_{run.model}_seed-{run.seed}"


def _trained(runs, data_dir, results, checkpoints: list) -> Federations:
    """Train a page's federations, but for those that diverge; collect where checkpoints lie."""
    for run in runs:
        trained = federation.train(run, data_dir, results)
        checkpoints.append(trained.checkpoint)
        if trained.outcome.diverged:
            print(f"{describe(run)}: diverged, and so is not in the picture")
        else:
            yield run, trained


def _reconstructions(federations: Federations, data_dir: Path | None, stem: Path) -> list[Path]:
    """True images beside what the attack makes of the messages of each algorithm."""
    found = {}
    for run, trained in federations:
        seen, truth = federation.one_more_step(trained, run)
        attacked = attack(run, trained.public, seen)
        shown = np.asarray(truth.present)[:CLIENTS]
        found[run.algorithm] = by_true_image(attacked, truth)[:CLIENTS][shown]
    if not found:
        return []
    # After as many rounds the minibatches are the same under each algorithm.
    names = _class_names(run, np.asarray(truth.labels)[:CLIENTS][shown])
    return reconstruction_grid(truth.images[:CLIENTS][shown], found, names, stem)


def _heat_maps(federations: Federations, data_dir: Path | None, stem: Path) -> list[Path]:
    """What each algorithm's model looks at in the first test images."""
    maps = {}
    for run, trained in federations:
        dataset, _ = load(run.dataset, data_dir)
        images = jnp.asarray(dataset.test_images[:IMAGES], jnp.float32) / dataset.scale
        labels = dataset.test_labels[:IMAGES]
        params = trained.outcome.state.params
        maps[run.algorithm] = gradcam(trained.public.model, params, images, labels)
    if not maps:
        return []
    return gradcam_grid(images, maps, _class_names(run, labels), stem)


def _class_names(run, labels):
    return [DATASETS[run.dataset].classes[label] for label in labels]


RECONSTRUCTIONS = Kind("reconstructions", _reconstructions)
HEAT_MAPS = Kind("gradcam", _heat_maps)
