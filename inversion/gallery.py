"""The pictures of --gen-images and --gradcams: federations of several algorithms side by side."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import evaluation
import federation
import jax.numpy as jnp
import numpy as np
import pictures
from settings import Options, trainings

from fl.data.catalogue import DATASETS
from fl.experiment.program import load, run_grid
from fl.simulation import models

# Clients whose minibatches are shown: as many as fill a page.
CLIENTS = pictures.BLOCKS
# Test images that heat maps are drawn for.
IMAGES = 25


def draw(options: Options) -> int:
    """Train, and draw the pictures that the options ask for; return the exit status."""
    kind, page = _KINDS["gradcams" if options.gradcams else "gen_images"]
    folder = options.results.parent / "figures"
    # All algorithms of a page stand together, apart from everything else that tells runs apart.
    cells = sorted(trainings(options), key=_place)
    pages = [list(same) for _, same in itertools.groupby(cells, _place)]
    if options.skip_done:
        left = [cells for cells in pages if not _drawn(_stem(folder, kind, cells[0]))]
        if len(left) < len(pages):
            print(f"{len(pages) - len(left)} of {len(pages)} pictures are there: skipped")
        pages = left

    def draw_page(cells):
        checkpoints = []
        federations = _trained(options, cells, checkpoints)
        for path in page(options, federations, _stem(folder, kind, cells[0])):
            print(path)
        for checkpoint in checkpoints:
            checkpoint.unlink(missing_ok=True)

    return run_grid(pages, draw_page, lambda cells: federation.describe(cells[0]))


def _place(cell):
    return cell["dataset"], cell["model"], cell["seed"]


def _stem(folder, kind, cell):
    dataset, model, seed = _place(cell)
    return folder / f"{kind}_{dataset}_{model}_seed-{seed}"


def _drawn(stem):
    return stem.with_suffix(".png").exists()


def _trained(options, cells, checkpoints: list) -> Iterator[tuple[dict, federation.Trained]]:
    """Train a page's federations, but for those that diverge; collect where checkpoints lie."""
    for cell in cells:
        trained = federation.train(options, cell)
        checkpoints.append(trained.checkpoint)
        if trained.outcome.diverged:
            print(f"{federation.describe(cell)}: diverged, and so is not in the picture")
        else:
            yield cell, trained


def _reconstructions(options, federations, stem: Path) -> list[Path]:
    """True images beside what the attack makes of the messages of each algorithm."""
    (attack,) = options.attack
    found = {}
    for cell, trained in federations:
        seen, truth = federation.look(options, cell, trained)
        made = cell | {"attack": attack, "restarts": options.restarts}
        attacked = evaluation.attack(options, made, trained, seen)
        ordered = evaluation.by_true_image(attacked, truth)
        shown = np.asarray(truth.present)[:CLIENTS]
        found[cell["algorithm"]] = ordered[:CLIENTS][shown]
    if not found:
        return []
    # After as many rounds the minibatches are the same under each algorithm.
    classes = DATASETS[cell["dataset"]].classes
    names = [classes[label] for label in np.asarray(truth.labels)[:CLIENTS][shown]]
    return pictures.reconstruction_grid(truth.images[:CLIENTS][shown], found, names, stem)


def _heat_maps(options, federations, stem: Path) -> list[Path]:
    """What each algorithm's model looks at in the first test images."""
    maps = {}
    for cell, trained in federations:
        dataset, _ = load(cell["dataset"], options.data_dir)
        images = jnp.asarray(dataset.test_images[:IMAGES], jnp.float32) / dataset.scale
        labels = dataset.test_labels[:IMAGES]
        model, params = models.MODELS[cell["model"]](), trained.outcome.state.params
        maps[cell["algorithm"]] = pictures.gradcam(model, params, images, labels)
    if not maps:
        return []
    names = [DATASETS[cell["dataset"]].classes[label] for label in labels]
    return pictures.gradcam_grid(images, maps, names, stem)


# Option -> how its files are called, and what draws a page of several algorithms.
_KINDS: dict[str, tuple[str, Callable]] = {
    "gen_images": ("reconstructions", _reconstructions),
    "gradcams": ("gradcam", _heat_maps),
}
