"""From reconstructions to scores and to pictures, with reconstructions that are known."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "inversion"
sys.path.insert(0, str(FOLDER))  # the experiments are folders of scripts, not packages

import classifier  # noqa: E402
import evaluation  # noqa: E402
from attacks import Reconstruction  # noqa: E402
from observation import Truth  # noqa: E402

SIZE = (12, 12, 1)
CELL = {"dataset": "digits"}


def options(**settings):
    return SimpleNamespace(
        **{"as_published": False, "classifier_metric": False, "data_dir": None} | settings
    )


@pytest.fixture
def truth():
    """Three clients with minibatches of four, the last of which holds three samples only."""
    images = np.random.default_rng(0).uniform(size=(3, 4, *SIZE)).astype(np.float32)
    labels = np.arange(12).reshape(3, 4) % 10
    present = np.ones((3, 4), bool)
    present[2, 3] = False
    return Truth(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(present))


def attacked(truth, order):
    """An attack that found everything, in another order in each minibatch."""
    images = jnp.take_along_axis(truth.images, order[..., None, None, None], axis=1)
    labels = jnp.take_along_axis(truth.labels, order, axis=1)
    whole = Reconstruction(truth.images[:1], truth.labels[:1], jnp.zeros(1))
    return evaluation.Attacked(Reconstruction(images, labels, jnp.zeros(3)), whole)


ORDER = np.array([[2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]])


def test_reconstructions_are_put_beside_their_true_images(truth):
    ordered = np.asarray(evaluation.by_true_image(attacked(truth, ORDER), truth))
    present = np.asarray(truth.present)
    assert np.array_equal(ordered[present], np.asarray(truth.images)[present])
    # Nothing is put beside what fills the minibatch up.
    assert np.isnan(ordered[~present]).all()


def test_all_that_was_found_scores_as_such(truth):
    scores = evaluation.score(options(), CELL, attacked(truth, ORDER), truth)
    assert scores["psnr"] == 100
    assert scores["ssim"] == pytest.approx(1)
    assert scores["labels_recovered"] == 1
    assert scores["global_psnr"] == 100
    assert "classifier_distance" not in scores


def test_classifier_distance_compares_each_image_with_its_own(truth, monkeypatch):
    trained = SimpleNamespace(distance=lambda a, b: np.abs(a - b).max((-3, -2, -1)))
    monkeypatch.setattr(classifier, "load", lambda name, data_dir: trained)
    found = attacked(truth, ORDER)
    nothing = found.clients._replace(images=jnp.zeros_like(found.clients.images))
    asked = options(classifier_metric=True)
    assert evaluation.score(asked, CELL, found, truth)["classifier_distance"] == 0
    distance = evaluation.score(asked, CELL, found._replace(clients=nothing), truth)
    brightest = np.asarray(truth.images).max((-3, -2, -1))[np.asarray(truth.present)]
    assert distance["classifier_distance"] == pytest.approx(brightest.mean())
