"""PSNR, SSIM and cosine similarity: against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from images import SHAPES, SMALL, TRUE, true_ssim

(metrics,) = load("inversion", "image_metrics")

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 2**32 - 1)


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


def test_cosine_is_at_most_one():
    """Rounding alone would carry a fifth of these beyond."""
    images = np.random.default_rng(0).random((100, *SMALL), np.float32)
    assert float(metrics.cosine(images, images).max()) == 1


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
