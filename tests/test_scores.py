"""Assignment and scores, against plain loops and permutations."""

import itertools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st
from images import SMALL, TRUE, true_cosine, true_psnr

from fl.experiment.departures import Departures
from fl.simulation.training import Samples

assignment, closeness, image_metrics, reconstruction, scores, server_view = load(
    "inversion",
    "assignment",
    "closeness",
    "image_metrics",
    "reconstruction",
    "scores",
    "server_view",
)
Images = assignment.Images

seeds = st.integers(0, 2**32 - 1)


# Below, images are so small that the plain loops stay quick, and labels repeat.


def draw(rng, *shape, classes=3, filled=0.3):
    """Random images [*shape] with labels; some are filling, never all of a minibatch."""
    mask = rng.random(shape) >= filled
    mask[..., 0] = True
    return Images(
        rng.random((*shape, *SMALL), np.float32), rng.integers(0, classes, shape, np.int32), mask
    )


def at(images, index):
    return Images(*(np.asarray(field)[index] for field in images))


def of_label(reconstructed, true):
    """By reconstruction of a minibatch, the true images of its label."""
    return [
        [
            image
            for image, label, valid in zip(*true, strict=True)
            if made and valid and label == inferred
        ]
        for inferred, made in zip(reconstructed.labels, reconstructed.mask, strict=True)
    ]


@given(seed=seeds, classes=st.integers(1, 8), noisy=st.sampled_from([0, 0.5, 1]))
def test_permuted_copies_are_matched_back(seed, classes, noisy):
    """Exact ones, noisy ones, and both: infinite gains must not drown the others."""
    rng = np.random.default_rng(seed)
    true = draw(rng, 3, 8, classes=classes, filled=0)
    orders = rng.permuted(np.tile(np.arange(8), (3, 1)), axis=1)
    copies = np.take_along_axis(true.pixels, orders[..., None, None, None], axis=1)
    noise = 0.1 * rng.normal(size=copies.shape) * (rng.random((3, 8, 1, 1, 1)) < noisy)
    copies += noise.astype(np.float32)
    # The inferred labels may be any, also wrong ones.
    made = Images(copies, rng.integers(0, classes, (3, 8), np.int32), true.mask)
    pairing = assignment.assign(made, true)
    np.testing.assert_array_equal(pairing.partner, orders)
    assert pairing.matched.all()
    if not noisy:
        np.testing.assert_array_equal(pairing.take(true.pixels), copies)


@given(seed=seeds, noise=st.sampled_from([0, 1e-4]))
def test_duplicate_images_share_out_their_copies(seed, noise):
    rng = np.random.default_rng(seed)
    true = draw(rng, 1, 8, filled=0)
    true.pixels[:, 4:] = true.pixels[:, :4]
    copies = true.pixels[:, rng.permutation(8)]
    copies += noise * rng.normal(size=copies.shape).astype(np.float32)
    made = true._replace(pixels=copies)
    pairing = assignment.assign(made, true)
    assert sorted(pairing.partner[0].tolist()) == list(range(8))
    found = closeness.closeness(made, true, pairing)
    assert found.psnr > 70
    assert (found.psnr == image_metrics.PSNR_CAP) == (noise == 0)
    assert found[1:] == pytest.approx((1, 1), abs=1e-4)


@given(
    seed=seeds, sizes=st.sampled_from([(4, 4), (2, 4), (4, 3)]), filled=st.sampled_from([0, 0.3])
)
def test_assignment_is_the_best_of_all(seed, sizes, filled):
    """As many reconstructions as images, fewer, more; with filling on both sides."""
    made, held = sizes
    rng = np.random.default_rng(seed)
    reconstructed, true = (draw(rng, 2, count, filled=filled) for count in (made, held))
    # Dim and bright images, so that some partner is good for everyone and greed does not pay.
    true.pixels[...] *= rng.random((2, held, 1, 1, 1), np.float32)
    reconstructed.pixels[...] *= rng.random((2, made, 1, 1, 1), np.float32)
    pairing = assignment.assign(reconstructed, true)
    for batch in range(2):
        rows, columns = (np.flatnonzero(x.mask[batch]) for x in (reconstructed, true))
        gains = {
            (row, column): true_psnr(reconstructed.pixels[batch, row], true.pixels[batch, column])
            for row, column in itertools.product(rows, columns)
        }
        pairs = min(len(rows), len(columns))
        best = max(
            sum(gains[pair] for pair in zip(some, order, strict=True))
            for some in itertools.combinations(rows, pairs)
            for order in itertools.permutations(columns, pairs)
        )
        chosen = np.flatnonzero(pairing.matched[batch])
        partners = np.asarray(pairing.partner[batch])[chosen]
        assert len(chosen) == len(set(partners)) == pairs
        assert sum(gains[p] for p in zip(chosen, partners, strict=True)) == pytest.approx(best)


def test_assignment_of_one_minibatch():
    true = draw(np.random.default_rng(0), 4, filled=0)
    pairing = assignment.assign(true._replace(pixels=true.pixels[::-1]), true)
    assert pairing.partner.tolist() == [3, 2, 1, 0]


@given(seed=seeds, classes=st.integers(1, 5))
def test_best_match_lets_every_metric_choose(seed, classes):
    rng = np.random.default_rng(seed)
    reconstructed, true = draw(rng, 3, 4, classes=classes), draw(rng, 3, 4, classes=classes)
    for metric, expected in zip(image_metrics.METRICS, TRUE, strict=True):
        values, matched = assignment.best_match(metric, reconstructed, true)
        for batch in range(3):
            made = at(reconstructed, batch)
            for number, candidates in enumerate(of_label(made, at(true, batch))):
                assert bool(matched[batch, number]) == bool(candidates)
                if candidates:
                    best = max(expected(made.pixels[number], image) for image in candidates)
                    assert float(values[batch, number]) == pytest.approx(best, abs=1e-5)


@given(seed=seeds)
def test_aggregate(seed):
    """Corrected: all metrics on the image of best PSNR. Published: each on its own best image."""
    rng = np.random.default_rng(seed)
    reconstructed, true = draw(rng, 4, filled=0), draw(rng, 3, 4, classes=4)
    reconstructed.labels[:] = np.arange(4)
    pool = Images(*(field.reshape(-1, *field.shape[2:]) for field in true))
    nearest, best = [], []
    for made, candidates in zip(reconstructed.pixels, of_label(reconstructed, pool), strict=True):
        if candidates:
            each = np.array([[metric(made, image) for metric in TRUE] for image in candidates])
            nearest.append(each[each[:, 0].argmax()])
            best.append(each.max(0))
    found = closeness.score_aggregate(reconstructed, true)
    assert found == pytest.approx(np.mean(nearest, axis=0), abs=1e-5)
    published = closeness.score_aggregate(reconstructed, true, Departures(best_match=True))
    assert published == pytest.approx(np.mean(best, axis=0), abs=1e-5)


def test_aggregate_metrics_share_one_image():
    """A brighter copy is far in PSNR and near in cosine; a flat image is the other way round."""
    reconstructed, true = (
        Images(np.zeros((*shape, *SMALL), np.float32), np.zeros(shape, int), np.zeros(shape, bool))
        for shape in ((4,), (3, 4))
    )
    made = np.random.default_rng(0).uniform(0.4, 0.5, SMALL).astype(np.float32)
    candidates = np.stack([2 * made, np.full(SMALL, made.mean())])
    reconstructed.pixels[0], reconstructed.mask[0] = made, True
    true.pixels[1, 2:], true.mask[1, 2:] = candidates, True
    found = closeness.score_aggregate(reconstructed, true)
    published = closeness.score_aggregate(reconstructed, true, Departures(best_match=True))
    assert published.psnr == found.psnr == pytest.approx(true_psnr(made, candidates[1]), abs=1e-5)
    assert found.cosine == pytest.approx(true_cosine(made, candidates[1]), abs=1e-6)
    assert published.cosine == pytest.approx(1, abs=1e-6)
    assert found.cosine < 0.999 < published.cosine


labels = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=5, max_size=5)


@given(inferred=labels, true=labels)
def test_labels_recovered_are_a_multiset(inferred, true):
    counts = [Counter(label for label, valid in side if valid) for side in (inferred, true)]
    sides = [Images(None, *map(np.array, zip(*side, strict=True))) for side in (inferred, true)]
    if not counts[1]:
        with pytest.raises(ValueError, match="no true sample"):
            scores.labels_recovered(*sides)
        return
    found = scores.labels_recovered(*sides)
    assert found == (counts[0] & counts[1]).total() / counts[1].total()
    assert 0 <= found <= 1


def test_labels_of_minibatches_stay_apart():
    sides = [
        Images(None, np.array(side), np.ones((2, 2), bool))
        for side in ([[0, 0], [1, 1]], [[1, 1], [0, 1]])
    ]
    assert scores.labels_recovered(*sides) == 0.25


@given(seed=seeds, best=st.booleans())
def test_scores_are_means_over_what_is_matched(seed, best):
    rng = np.random.default_rng(seed)
    reconstructed, true = draw(rng, 3, 4), draw(rng, 3, 4)
    pairing = assignment.assign(reconstructed, true)
    matched = []
    for batch in range(3):
        made, held = at(reconstructed, batch), at(true, batch)
        for number, candidates in enumerate(of_label(made, held)):
            if not best:
                partner = held.pixels[pairing.partner[batch, number]]
                candidates = [partner] if pairing.matched[batch, number] else []
            if candidates:
                pairs = [[m(made.pixels[number], image) for m in TRUE] for image in candidates]
                matched.append(np.max(pairs, axis=0))
    expected = np.mean(matched, axis=0) if matched else [np.nan] * 3
    departures = Departures(best_match=best)
    found = closeness.score_clients(reconstructed, true, departures)
    assert all(isinstance(value, float) for value in found)
    assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    # What stands in for missing images must not matter.
    for side in (reconstructed, true):
        side.pixels[~side.mask] = np.nan
        side.labels[~side.mask] = side.labels[..., :1].repeat(4, axis=-1)[~side.mask]
    again = closeness.score_clients(reconstructed, true, departures)
    np.testing.assert_array_equal(again, found)


def test_nothing_recovered():
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    wrong = true._replace(labels=true.labels + 3)
    found = closeness.score_clients(wrong, true, Departures(best_match=True))
    assert np.isnan(found[:3]).all()
    assert scores.labels_recovered(wrong, true) == 0
    # Without regard to labels, they are perfect copies.
    assert closeness.score_clients(wrong, true).psnr == image_metrics.PSNR_CAP


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("best", [False, True])
def test_a_broken_reconstruction_shows(value, best):
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    copies = true.pixels[:, ::-1].copy()
    copies[0, 1] = value
    reconstructed = Images(copies, true.labels[:, ::-1], true.mask)
    np.testing.assert_array_equal(
        assignment.assign(reconstructed, true).partner, [[3, 2, 1, 0]] * 3
    )
    found = closeness.score_clients(reconstructed, true, Departures(best_match=best))
    assert not np.isfinite(found.psnr)
    assert np.isnan([found.ssim, found.cosine]).all()


def test_a_broken_reconstruction_does_not_pass_for_surplus():
    made = draw(np.random.default_rng(0), 3, 4, filled=0)
    true = made._replace(mask=np.arange(4) < [[4], [4], [2]])
    assert closeness.score_clients(made, true).psnr == image_metrics.PSNR_CAP
    made.pixels[2, 3] = np.nan
    assert np.isnan(closeness.score_clients(made, true).psnr)


def test_one_perfect_reconstruction_does_not_drown_the_others():
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    made = true._replace(pixels=true.pixels + np.float32(0.1))
    made.pixels[0, 0] = true.pixels[0, 0]
    expected = (image_metrics.PSNR_CAP + 11 * 20) / 12
    assert closeness.score_clients(made, true).psnr == pytest.approx(expected, abs=1e-4)


# From what an attack found to the columns of results.csv.


@pytest.fixture
def truth():
    """Three clients with minibatches of four, the last of which holds three samples only."""
    images = np.random.default_rng(0).uniform(size=(3, 4, *SMALL)).astype(np.float32)
    labels = np.arange(12).reshape(3, 4) % 10
    present = np.ones((3, 4), bool)
    present[2, 3] = False
    indices = np.arange(12).reshape(3, 4)
    arrays = (jnp.asarray(each) for each in (images, labels, present))
    return server_view.Truth(*arrays, indices)


@pytest.fixture
def samples(truth):
    """A training set: the images of the minibatches, then grey ones of every class."""
    grey = np.full((20, *SMALL), 128, np.uint8)
    own = np.round(255 * np.asarray(truth.images)).astype(np.uint8).reshape(-1, *SMALL)
    labels = np.concatenate([np.asarray(truth.labels).ravel(), np.arange(20) % 10])
    pixels = np.concatenate([own, grey])
    return Samples(jnp.asarray(pixels), jnp.asarray(labels), jnp.asarray(255.0))


def attacked(truth, order):
    """An attack that found everything, in another order in each minibatch."""
    images = jnp.take_along_axis(truth.images, order[..., None, None, None], axis=1)
    labels = jnp.take_along_axis(truth.labels, order, axis=1)
    whole = reconstruction.Reconstruction(truth.images[:1], truth.labels[:1])
    return reconstruction.Attacked(reconstruction.Reconstruction(images, labels), whole)


ORDER = np.array([[2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]])


def test_reconstructions_are_put_beside_their_true_images(truth):
    ordered = np.asarray(scores.by_true_image(attacked(truth, ORDER).clients, truth))
    present = np.asarray(truth.present)
    assert np.array_equal(ordered[present], np.asarray(truth.images)[present])
    # Nothing is put beside what fills the minibatch up.
    assert np.isnan(ordered[~present]).all()


def test_all_that_was_found_scores_as_such(truth, samples):
    found = scores.score(attacked(truth, ORDER), truth, samples)
    assert found["psnr"] == 100
    assert found["ssim"] == pytest.approx(1)
    assert found["labels_recovered"] == 1
    assert found["global_psnr"] == 100
    found = attacked(truth, ORDER)
    wrong = found.clients._replace(labels=found.clients.labels + 10)
    labels = scores.score(found._replace(clients=wrong), truth, samples)["labels_recovered"]
    assert labels == 0


def test_chance_is_what_other_images_score(truth, samples):
    found = scores.score(attacked(truth, ORDER), truth, samples)
    grey = np.full_like(truth.images, 128 / 255)
    errors = np.square(np.asarray(truth.images) - grey).mean((2, 3, 4))[np.asarray(truth.present)]
    assert found["chance_psnr"] == pytest.approx(-10 * np.log10(errors).mean(), abs=0.2)
    assert found["recovered"] == 1


def test_chance_of_the_aggregate_is_of_the_nearest_images_of_a_class(truth, samples):
    found = scores.score(attacked(truth, ORDER), truth, samples)
    errors = np.square(np.asarray(truth.images) - np.float32(128 / 255)).mean((2, 3, 4))
    labels, present = np.asarray(truth.labels), np.asarray(truth.present)
    # Those that the aggregate's reconstruction has.
    nearest = [errors[present & (labels == label)].min() for label in labels[0]]
    expected = -10 * np.log10(nearest).mean()
    assert found["global_chance_psnr"] == pytest.approx(expected, abs=1e-3)


def test_images_of_anyone_that_the_aggregate_shows_are_recovered(truth, samples):
    # Two true images and two of noise, all of them with other labels than theirs.
    noise = np.random.default_rng(2).uniform(size=(2, *SMALL)).astype(np.float32)
    shown = jnp.asarray(np.concatenate([truth.images[0, 1:2], truth.images[2, 2:3], noise]))
    whole = reconstruction.Reconstruction(shown[None], (truth.labels[:1] + 5) % 10)
    found = scores.score(attacked(truth, ORDER)._replace(aggregate=whole), truth, samples)
    assert found["global_recovered"] == pytest.approx(2 / 11)


def test_images_above_30_decibels_are_recovered(truth, samples):
    noise = np.random.default_rng(1).normal(size=truth.images.shape).astype(np.float32)
    for deviation, share in ((0.02, 1), (0.05, 0)):
        own = reconstruction.Reconstruction(truth.images + deviation * noise, truth.labels)
        found = scores.images(own)
        assert closeness.recovered(found, scores.Images(*truth[:3])) == share


def test_windows_are_scored_one_to_one_without_labels(truth, samples):
    unknown = np.full(truth.labels.shape, scores.UNKNOWN)
    own = reconstruction.Reconstruction(attacked(truth, ORDER).clients.images, unknown)
    whole = reconstruction.Reconstruction(truth.images[:1, :2], unknown[:1, :2])
    behind = server_view.Behind(truth, server_view.Truth(*(field[:1] for field in truth)))
    found = scores.score_window(reconstruction.Attacked(own, whole), behind, samples)
    assert found["psnr"] == found["global_psnr"] == 100
    assert (found["recovered"], found["global_recovered"]) == (1, 0.5)
    assert found["chance_psnr"] < 20
    assert "labels_recovered" not in found
    nobody = reconstruction.Reconstruction(own.images[:0], unknown[:0])
    aggregate = scores.score_window(reconstruction.Attacked(nobody, whole), behind, samples)
    assert all(name.startswith("global_") for name in aggregate)


def test_classifier_distance_compares_each_image_with_its_own(truth):
    class Brightest:
        """A stand-in for a trained classifier."""

        def distance(self, a, b):
            return np.abs(a - b).max((-3, -2, -1))

    found = attacked(truth, ORDER)
    nothing = found.clients._replace(images=jnp.zeros_like(found.clients.images))
    assert scores.classifier_distance(found, truth, Brightest()) == 0
    distance = scores.classifier_distance(found._replace(clients=nothing), truth, Brightest())
    brightest = np.asarray(truth.images).max((-3, -2, -1))[np.asarray(truth.present)]
    assert distance == pytest.approx(brightest.mean())
