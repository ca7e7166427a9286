"""Gains of pixels come from steps of intensity, or from the neighbours."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

(brightness,) = load("inversion", "brightness")


def pictures(count=60, levels=255, seed=0):
    """Smooth images with so many levels, and an unknown gain for each pixel."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 3, 8)
    waves = [
        np.sin(x[:, None] * rng.uniform(0.5, 2) + rng.uniform(0, 6)) * np.cos(x * rng.uniform(0, 2))
        for _ in range(count)
    ]
    images = np.round(levels * np.clip(0.5 + 0.5 * np.stack(waves), 0, 1)) / levels
    gains = np.exp(rng.normal(size=(8, 8)))
    return images[..., None], gains[..., None]


@pytest.mark.parametrize(("levels", "count"), [(255, 60), (16, 120)])
@pytest.mark.parametrize("error", [0, 1e-4])
def test_steps_of_intensity_give_the_gain(levels, count, error):
    images, gains = pictures(count, levels)
    seen = images / gains * (1 + error * np.random.default_rng(1).normal(size=images.shape))
    found = brightness.gains(jnp.asarray(seen), jnp.ones(count, bool), levels).of_pixels
    assert np.mean(np.abs(found / gains - 1) < 2e-3) > 0.9


def test_where_values_are_too_rough_the_brightest_is_nearly_white():
    images, gains = pictures()
    seen = images / gains * (1 + 0.05 * np.random.default_rng(1).normal(size=images.shape))
    found = brightness.gains(jnp.asarray(seen), jnp.ones(len(images), bool)).of_pixels
    ratio = np.asarray(found / gains)
    assert 0.7 < np.median(ratio) < 1.3


def test_images_that_are_none_do_not_matter():
    images, gains = pictures()
    seen = images / gains
    rng = np.random.default_rng(2)
    junk = np.concatenate([seen, 50 * rng.normal(size=(8, 8, 8, 1)), 1e5 * seen[:4]])
    found = brightness.gains(jnp.asarray(junk), jnp.ones(len(junk), bool)).of_pixels
    assert np.mean(np.abs(found / gains - 1) < 2e-3) > 0.9


def test_what_is_never_seen_stays_black():
    images, gains = pictures()
    seen = images / gains
    seen[:, 3, 4] = 0
    found = brightness.gains(jnp.asarray(seen), jnp.ones(len(images), bool)).of_pixels
    assert found[3, 4, 0] == 0


def test_a_pixel_that_is_mostly_rounding_is_like_its_neighbours_where_it_shows():
    images, gains = pictures(60)
    shows = np.arange(len(images)) % 5 == 0
    rng = np.random.default_rng(1)
    images[:, 3, 4, 0] *= shows
    seen = images / gains
    seen[:, 3, 4, 0] *= 1 + 0.05 * rng.normal(size=len(seen))
    seen[:, 3, 4, 0] += 1e-5 * np.abs(rng.normal(size=len(seen))) / gains[3, 4, 0]
    found = brightness.gains(jnp.asarray(seen), jnp.ones(len(images), bool)).of_pixels
    assert 0.7 < found[3, 4, 0] / gains[3, 4, 0] < 1.4


def test_a_faint_pixel_counts_as_black_if_its_values_have_either_sign():
    images, gains = pictures(60)
    seen = images / gains
    seen[:, 3, 4] *= 1e-5
    seen[:, 5, 2, 0] = 1e-5 * np.random.default_rng(1).normal(size=len(seen))
    found = brightness.gains(jnp.asarray(seen), jnp.ones(len(images), bool)).of_pixels
    np.testing.assert_allclose(found[3, 4], 1e5 * gains[3, 4], rtol=1e-2)
    assert found[5, 2, 0] == 0
