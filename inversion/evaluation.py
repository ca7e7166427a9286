"""One attack on a trained federation: what it reconstructs, and how good that is."""

from functools import partial
from typing import NamedTuple

import classifier
import jax
import jax.numpy as jnp
import metrics
import numpy as np
from attacks import ATTACKS, Reconstruction, reconstruct
from federation import Trained, algorithm_name
from metrics import Images
from observation import Observation, Truth
from observed import Observed, PublicFacts
from settings import Options

from fl.data import sampling
from fl.simulation import models


class Attacked(NamedTuple):
    """What came of an attack.

    Attributes:
        clients: reconstructions [client, batch] from each client's observation.
        aggregate: reconstructions [1, class] from the aggregate: one image of each class.
    """

    clients: Reconstruction
    aggregate: Reconstruction


def attack(options: Options, cell: dict, trained: Trained, seen: Observation) -> Attacked:
    """Attack every client's observation, and the aggregate.

    Args:
        options: the command line.
        cell: one of `settings.grid`.
        trained: the federation; of it the attack is given what is public.
        seen: what the server sees.
    """
    facts = PublicFacts(
        model=models.MODELS[cell["model"]](),
        image_shape=trained.samples.images.shape[1:],
        batch=cell["batch_size"],
        algorithm=algorithm_name(cell),
        client_rate=trained.work.algorithm.client_rate,
    )

    def build(facts):
        problem = ATTACKS[cell["attack"]]
        if cell["attack"] == "idlg":
            problem = partial(problem, as_published=options.as_published)
        problem = problem(facts)
        # The analytic attack takes none.
        steps = min(problem.steps, options.attack_steps or problem.steps)
        return problem._replace(steps=steps)

    def run(observations, facts, key, whom):
        observed = Observed(observations, seen.params, facts)
        label = f"{cell['attack']}, {whom}"
        return reconstruct(build, observed, key, cell["restarts"], bar_label=label)

    client_key, global_key = jax.random.split(jax.random.key(sampling.run_seed(cell["seed"])))
    aggregate = jax.tree.map(lambda leaf: leaf[None], seen.aggregate)
    of_all = facts._replace(batch=models.CLASSES)
    return Attacked(
        run(seen.clients, facts, client_key, f"{cell['clients']} clients"),
        run(aggregate, of_all, global_key, "aggregate"),
    )


def score(options: Options, cell: dict, attacked: Attacked, truth: Truth) -> dict[str, float]:
    """Score an attack -> columns of results.csv."""
    found, whole, true = images(attacked.clients), images(attacked.aggregate), Images(*truth)
    aggregate = Images(*(field[0] for field in whole))
    of_clients = metrics.score(found, true, options.as_published)
    of_all = metrics.score_aggregate(aggregate, true, options.as_published)
    scores = of_clients._asdict()
    scores |= {f"global_{name}": value for name, value in of_all._asdict().items()}
    if options.classifier_metric:
        pairing = metrics.assign(found, true)
        trained = classifier.load(cell["dataset"], options.data_dir)
        distances = trained.distance(pairing.take(true.pixels), found.pixels)
        scores["classifier_distance"] = metrics.mean(distances, pairing.matched)
    return scores


def images(reconstruction: Reconstruction) -> Images:
    """Reconstructions as `metrics` takes them: none is filling."""
    present = np.ones(reconstruction.labels.shape, bool)
    return Images(reconstruction.images, reconstruction.labels, present)


def by_true_image(attacked: Attacked, truth: Truth) -> jax.Array:
    """Each true image's reconstruction, of the clients' ones.

    Returns:
        [client, image, height, width, channels]; NaN where no reconstruction was assigned.
    """
    found = images(attacked.clients)
    pairing = metrics.assign(found, Images(*truth))
    ordered = np.full(truth.images.shape, np.nan, np.float32)
    client, reconstruction = np.nonzero(np.asarray(pairing.matched))
    partner = np.asarray(pairing.partner)[client, reconstruction]
    ordered[client, partner] = np.asarray(found.pixels)[client, reconstruction]
    return jnp.asarray(ordered)
