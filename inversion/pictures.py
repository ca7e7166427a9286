"""The pictures of --gen-images, --aggregates and --gradcams: algorithms side by side."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import federation
import jax.numpy as jnp
import numpy as np
from adaptive import MOST_IMAGES
from attacks import ATTACKS
from federation import Trained
from gradcam import gradcam, gradcam_grid
from reconstruction import Reconstruction, attack, attack_aggregate
from reconstruction_grid import BLOCKS, Panel, panel_page, reconstruction_grid
from runs import Run, describe
from scores import by_true_image, images, others
from server_view import Truth
from window_reconstruction import attack_window

from fl.data.catalogue import DATASETS
from fl.experiment.layout import count
from fl.experiment.names import display_name
from fl.experiment.program import load, run_grid
from fl.simulation import checkpoint

# Clients whose minibatches are shown: as many as fill a page.
CLIENTS = BLOCKS
# Images of an aggregate that are shown, at most.
SHOWN = 6
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
        kind: one of `KINDS`.
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
        for kept in checkpoints:
            checkpoint.remove(kept)

    return run_grid(pages, draw_page, lambda page: describe(page[0]))


def _place(run):
    return run.dataset, run.model, run.seed


def _stem(folder, kind, run):
    return folder / f"{kind.name}_{run.dataset}_{run.model}_seed-{run.seed}"


def _trained(runs, data_dir, results, checkpoints: list) -> Federations:
    """Train a page's federations, but for those that diverge; collect where checkpoints lie."""
    for _, same in itertools.groupby(runs, Run.training):
        same = list(same)
        stops = {run.rounds_before for run in same} - {None}
        trained = federation.train(same[0], data_dir, results, stops)
        checkpoints += [trained.checkpoint, *trained.copies.values()]
        for run in same:
            if trained.outcome.diverged:
                print(f"{describe(run)}: diverged, and so is not in the picture")
            else:
                yield run, trained


def _reconstructions(federations: Federations, data_dir: Path | None, stem: Path) -> list[Path]:
    """True images beside what the attack makes of the messages of each algorithm."""
    found = {}
    for run, trained in federations:
        seen, truth = federation.one_more_step(trained, run)
        attacked = attack(run, trained.public, seen).clients
        shown = np.asarray(truth.present)[:CLIENTS]
        found[run.algorithm] = by_true_image(attacked, truth)[:CLIENTS][shown]
    if not found:
        return []
    # After as many rounds the minibatches are the same under each algorithm.
    names = _class_names(run, np.asarray(truth.labels)[:CLIENTS][shown])
    return reconstruction_grid(truth.images[:CLIENTS][shown], found, names, stem)


def _aggregates(federations: Federations, data_dir: Path | None, stem: Path) -> list[Path]:
    """True images above what attacks make of aggregates of ever more clients."""
    panels, chance = {}, {}
    for run, trained in federations:
        found, truth = _of_the_aggregate(run, trained)
        # The first clients' images, and not those that an attack did best on.
        first = np.flatnonzero(truth.present[0])[:SHOWN]
        shown = Truth(*(field[:, first] for field in truth))
        title = count(run.clients, "client")
        panel = panels.setdefault(title, Panel(title, np.asarray(shown.images[0]), {}))
        name = f"{display_name(run.algorithm)}, {ATTACKS[run.attack].title.lower()}"
        if run.window:
            name += f", {count(run.window, 'round')}"
        panel.rows[name] = np.asarray(by_true_image(found, shown)[0])
        pixels = others(images(found), truth, trained.samples).pixels
        chance[title] = np.asarray(by_true_image(found._replace(images=pixels), shown)[0])
    if not panels:
        return []
    for title, panel in panels.items():
        panel.rows["Chance"] = chance[title]
    each = count(run.batch_size, "image")
    words = (
        f"What attacks make of the aggregate of so many clients, with {each} each, in round "
        f"{run.attack_round:,}; 1 client's is its own message.",
        "Shown: the first images in the order of clients; reconstructions are assigned one to one "
        "where they match best, and brightened. Below: mean PSNR, from before.",
        "Chance: other training images in place of reconstructions.",
    )
    return panel_page(list(panels.values()), words, stem)


def _of_the_aggregate(run, trained):
    """What the attack makes of the aggregate of one round, and the truth, of one client each."""
    if ATTACKS[run.attack].watches:
        attacked, _, behind = attack_window(run, trained)
        found, truth = attacked.aggregate, behind.aggregate
        return Reconstruction(*(field[-1:] for field in found)), Truth(*(f[-1:] for f in truth))
    seen, truth = federation.one_more_step(trained, run)
    truth = Truth(*(np.reshape(field, (1, -1, *field.shape[2:])) for field in truth))
    sought = min(truth.indices.size, MOST_IMAGES)
    return attack_aggregate(run, trained.public, seen, sought), truth


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


# By the option that asks for them.
KINDS = {
    "gen_images": Kind("reconstructions", _reconstructions),
    "aggregates": Kind("aggregates", _aggregates),
    "gradcams": Kind("gradcam", _heat_maps),
}
