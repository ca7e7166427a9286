"""Rotation of training images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fl.data import augmentation


def image(height=15, width=11, channels=2):
    return np.random.default_rng(0).random((height, width, channels)).astype(np.float32)


@pytest.mark.parametrize("degrees", [-10, -3.5, 0, 7, 10])
def test_inside_it_is_scipys_rotation(degrees):
    turned = np.asarray(augmentation.rotate(jnp.asarray(image()), degrees))
    wanted = ndimage.rotate(image(), degrees, reshape=False, order=1, mode="constant")
    # At the border, SciPy does not interpolate between a pixel and the outside.
    np.testing.assert_allclose(turned[3:-3, 3:-3], wanted[3:-3, 3:-3], atol=1e-5)


def test_a_quarter_turn_moves_every_pixel():
    square = image(7, 7, 1)
    turned = np.asarray(augmentation.rotate(jnp.asarray(square), 90.0))
    np.testing.assert_allclose(turned, np.rot90(square), atol=1e-5)


def test_angles_are_each_images_own_and_within_the_bounds():
    # The angle of a thin bar through the centre can be read off its second moments.
    bar = np.zeros((41, 41, 1), np.float32)
    bar[19:22, 4:37] = 1
    images = jnp.asarray(np.stack([bar] * 200))
    turned = np.asarray(augmentation.random_rotation(10.0)(images, jax.random.key(3)))[..., 0]
    rows, columns = np.mgrid[-20:21, -20:21]
    covariance = (turned * rows * columns).sum((1, 2))
    spread = (turned * (columns**2 - rows**2)).sum((1, 2))
    angles = -np.rad2deg(0.5 * np.arctan2(2 * covariance, spread))
    assert np.abs(angles).max() <= 10.2
    assert angles.std() == pytest.approx(10 / np.sqrt(3), rel=0.15)
    assert len(np.unique(angles.round(3))) > 190


def test_images_stay_within_their_range_and_shape():
    images = jnp.asarray(np.random.default_rng(1).random((5, 9, 9, 3)), jnp.float32)
    turned = augmentation.random_rotation(10.0)(images, jax.random.key(0))
    assert turned.shape == images.shape
    assert float(turned.min()) >= 0
    assert float(turned.max()) <= 1


def test_no_rotation_changes_nothing():
    images = jnp.asarray(np.random.default_rng(1).random((2, 9, 9, 1)), jnp.float32)
    np.testing.assert_allclose(
        augmentation.random_rotation(0.0)(images, jax.random.key(0)), images, atol=1e-6
    )
