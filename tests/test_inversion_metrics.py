"""Scores of reconstructions: against scikit-image, and against plain loops and permutations."""

import importlib.util
import itertools
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

# By its path: the experiments are folders of scripts, and several may have a module of this name.
_spec = importlib.util.spec_from_file_location(
    "inversion_metrics", Path(__file__).parents[1] / "inversion" / "metrics.py"
)
metrics = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(metrics)
Images = metrics.Images

SHAPES = [(11, 11, 1), (12, 17, 3), (28, 28, 1)]
SMALL = SHAPES[0]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 2**32 - 1)


def true_psnr(a, b):
    with np.errstate(divide="ignore"):
        return peak_signal_noise_ratio(np.asarray(a, float), np.asarray(b, float), data_range=1)


def true_ssim(a, b):
    # In double precision: from single, scikit-image itself is off by up to 7e-5.
    return structural_similarity(
        np.asarray(a, float),
        np.asarray(b, float),
        win_size=11,
        gaussian_weights=False,
        data_range=1,
        channel_axis=-1,
    )


def true_cosine(a, b):
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return abs(a @ b) / lengths if lengths else 0.0


TRUE = (true_psnr, lambda a, b: abs(true_ssim(a, b)), true_cosine)


def pixels(shape):
    """Arbitrary images: few distinct values or many, flat or noisy."""
    return arrays(np.float32, shape, elements=st.floats(0, 1, width=32, allow_subnormal=False))


def check(a, b):
    """All three metrics of two images, against the true ones."""
    found = [float(metric(a, b)) for metric in metrics.METRICS]
    expected = [metric(a, b) for metric in TRUE]
    # At 100 dB, neighbouring single-precision numbers already lie 8e-6 apart.
    capped = np.minimum([found[0], expected[0]], metrics.PSNR_CAP)
    np.testing.assert_allclose(*capped, rtol=5e-7, atol=5e-6)
    np.testing.assert_allclose(found[1:], expected[1:], atol=2e-6, rtol=0)


@each_shape
@given(data=st.data())
def test_any_images(shape, data):
    check(data.draw(pixels(shape)), data.draw(pixels(shape)))


@each_shape
@given(seed=seeds, noise=st.floats(-5, -0.3), flat=st.booleans())
def test_noisy_images(shape, seed, noise, flat):
    rng = np.random.default_rng(seed)
    a = np.full(shape, rng.random()) if flat else rng.random(shape)
    b = np.clip(a + 10**noise * rng.normal(size=shape), 0, 1)
    check(a.astype(np.float32), b.astype(np.float32))


@each_shape
@pytest.mark.parametrize("levels", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3), (0.9, 0.95), (0.0, 1.0)])
def test_constant_images(shape, levels):
    check(*(np.full(shape, level, np.float32) for level in levels))


def test_two_flat_halves():
    """Where mean square minus squared mean goes wrong by more than 1e-5 in single precision."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = np.repeat(rng.random((2, 2, 1)), 14, axis=1).astype(np.float32)
        check(*(np.broadcast_to(x[..., None], SHAPES[-1]) for x in (a, b)))


@given(image=pixels(SMALL))
def test_identical_images(image):
    assert metrics.psnr(image, image) == np.inf
    assert float(metrics.ssim(image, image)) == pytest.approx(1, abs=1e-6)
    expected = 1 if image.any() else 0
    assert float(metrics.cosine(image, image)) == pytest.approx(expected, abs=1e-6)


def test_absolute_values():
    image = np.random.default_rng(0).random(SMALL, np.float32)
    assert true_ssim(image, 1 - image) < -0.5
    check(image, 1 - image)
    assert float(metrics.cosine(image, -image)) == pytest.approx(1, abs=1e-6)


def test_cosine_of_dim_images():
    """Single precision cannot hold the squares of these pixels."""
    image = np.random.default_rng(0).random(SMALL, np.float32)
    assert float(metrics.cosine(image, image * np.float32(1e-30))) == pytest.approx(1, abs=1e-6)
    assert metrics.cosine(image, np.zeros_like(image)) == 0


@pytest.mark.usefixtures("double_precision")
def test_double_precision():
    a, b = np.random.default_rng(0).random((2, 12, 17, 3))
    for metric, true in zip(metrics.METRICS, TRUE, strict=True):
        np.testing.assert_allclose(float(metric(a, b)), true(a, b), rtol=1e-12)


@pytest.mark.parametrize("transform", [lambda f: f, jax.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_leading_axes(transform):
    a, b = np.random.default_rng(0).random((2, 3, 2, *SMALL), np.float32)
    for metric in metrics.METRICS:
        found = transform(metric)(a, b)
        assert found.shape == (3, 2)
        for index in np.ndindex(3, 2):
            np.testing.assert_allclose(found[index], metric(a[index], b[index]), rtol=1e-6)


def test_half_precision_is_computed_in_single():
    a, b = jnp.asarray(np.random.default_rng(0).random((2, *SMALL)), jnp.bfloat16)
    check(np.asarray(a, np.float32), np.asarray(b, np.float32))
    for metric in metrics.METRICS:
        assert metric(a, b) == metric(a.astype(jnp.float32), b.astype(jnp.float32))


def test_images_that_cannot_be_compared():
    small, image = np.zeros((10, 28, 1), np.float32), np.zeros((28, 28, 1), np.float32)
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got 10x28"):
        metrics.ssim(small, small)
    for metric in metrics.METRICS:
        with pytest.raises(ValueError, match=r"one size.*\(28, 28, 1\) and \(28, 28, 3\)"):
            metric(image, np.zeros((28, 28, 3), np.float32))
        with pytest.raises(ValueError, match="one size"):
            metric(image[..., 0], image[..., 0])
        with pytest.raises(ValueError, match=r"floats.*uint8"):
            metric(image, image.astype(np.uint8))


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
    pairing = metrics.assign(made, true)
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
    pairing = metrics.assign(made, true)
    assert sorted(pairing.partner[0].tolist()) == list(range(8))
    found = metrics.closeness(made, true, pairing)
    assert found.psnr > 70
    assert (found.psnr == metrics.PSNR_CAP) == (noise == 0)
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
    pairing = metrics.assign(reconstructed, true)
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
    pairing = metrics.assign(true._replace(pixels=true.pixels[::-1]), true)
    assert pairing.partner.tolist() == [3, 2, 1, 0]


@given(seed=seeds, classes=st.integers(1, 5))
def test_best_match_lets_every_metric_choose(seed, classes):
    rng = np.random.default_rng(seed)
    reconstructed, true = draw(rng, 3, 4, classes=classes), draw(rng, 3, 4, classes=classes)
    for metric, expected in zip(metrics.METRICS, TRUE, strict=True):
        values, matched = metrics.best_match(metric, reconstructed, true)
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
            scores = np.array([[metric(made, image) for metric in TRUE] for image in candidates])
            nearest.append(scores[scores[:, 0].argmax()])
            best.append(scores.max(0))
    found = metrics.score_aggregate(reconstructed, true)
    assert found == pytest.approx(np.mean(nearest, axis=0), abs=1e-5)
    published = metrics.score_aggregate(reconstructed, true, as_published=True)
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
    found = metrics.score_aggregate(reconstructed, true)
    published = metrics.score_aggregate(reconstructed, true, as_published=True)
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
            metrics.labels_recovered(*sides)
        return
    found = metrics.labels_recovered(*sides)
    assert found == (counts[0] & counts[1]).total() / counts[1].total()
    assert 0 <= found <= 1


def test_labels_of_minibatches_stay_apart():
    sides = [
        Images(None, np.array(side), np.ones((2, 2), bool))
        for side in ([[0, 0], [1, 1]], [[1, 1], [0, 1]])
    ]
    assert metrics.labels_recovered(*sides) == 0.25


@given(seed=seeds, as_published=st.booleans())
def test_scores_are_means_over_what_is_matched(seed, as_published):
    rng = np.random.default_rng(seed)
    reconstructed, true = draw(rng, 3, 4), draw(rng, 3, 4)
    pairing = metrics.assign(reconstructed, true)
    matched = []
    for batch in range(3):
        made, held = at(reconstructed, batch), at(true, batch)
        for number, candidates in enumerate(of_label(made, held)):
            if not as_published:
                partner = held.pixels[pairing.partner[batch, number]]
                candidates = [partner] if pairing.matched[batch, number] else []
            if candidates:
                pairs = [[m(made.pixels[number], image) for m in TRUE] for image in candidates]
                matched.append(np.max(pairs, axis=0))
    expected = np.mean(matched, axis=0) if matched else [np.nan] * 3
    found = metrics.score(reconstructed, true, as_published)
    assert isinstance(found, metrics.Scores)
    assert all(isinstance(value, float) for value in found)
    assert found[:3] == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert found.labels_recovered == metrics.labels_recovered(reconstructed, true)
    # What stands in for missing images must not matter.
    for side in (reconstructed, true):
        side.pixels[~side.mask] = np.nan
        side.labels[~side.mask] = side.labels[..., :1].repeat(4, axis=-1)[~side.mask]
    np.testing.assert_array_equal(metrics.score(reconstructed, true, as_published), found)


def test_nothing_recovered():
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    wrong = true._replace(labels=true.labels + 3)
    found = metrics.score(wrong, true, as_published=True)
    assert np.isnan(found[:3]).all()
    assert found.labels_recovered == 0
    # Without regard to labels, they are perfect copies.
    assert metrics.score(wrong, true).psnr == metrics.PSNR_CAP


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("as_published", [False, True])
def test_a_broken_reconstruction_shows(value, as_published):
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    copies = true.pixels[:, ::-1].copy()
    copies[0, 1] = value
    reconstructed = Images(copies, true.labels[:, ::-1], true.mask)
    np.testing.assert_array_equal(metrics.assign(reconstructed, true).partner, [[3, 2, 1, 0]] * 3)
    found = metrics.score(reconstructed, true, as_published)
    assert not np.isfinite(found.psnr)
    assert np.isnan([found.ssim, found.cosine]).all()


def test_a_broken_reconstruction_does_not_pass_for_surplus():
    made = draw(np.random.default_rng(0), 3, 4, filled=0)
    true = made._replace(mask=np.arange(4) < [[4], [4], [2]])
    assert metrics.score(made, true).psnr == metrics.PSNR_CAP
    made.pixels[2, 3] = np.nan
    assert np.isnan(metrics.score(made, true).psnr)


def test_one_perfect_reconstruction_does_not_drown_the_others():
    true = draw(np.random.default_rng(0), 3, 4, filled=0)
    made = true._replace(pixels=true.pixels + np.float32(0.1))
    made.pixels[0, 0] = true.pixels[0, 0]
    expected = (metrics.PSNR_CAP + 11 * 20) / 12
    assert metrics.score(made, true).psnr == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("as_published", [False, True])
def test_scoring_100_batches_of_8_takes_under_2_seconds(as_published):
    rng = np.random.default_rng(0)
    reconstructed, true = (
        Images(
            rng.random((100, 8, 28, 28, 1), np.float32),
            rng.integers(0, 10, (100, 8)),
            np.ones((100, 8), bool),
        )
        for _ in range(2)
    )
    metrics.score(reconstructed, true, as_published)  # compiles
    start = time.perf_counter()
    metrics.score(reconstructed, true, as_published)
    assert time.perf_counter() - start < 2
