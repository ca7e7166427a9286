"""Images that units' gradients hold alone are found, gains and all, by one who knows none."""

import numpy as np
import pytest
from experiments import load

flat_gains, single_images = load("inversion", "flat_gains", "single_images")
SIDE, ROUNDS, IMAGES, UNITS, ALONE = 10, 60, 6, 40, 3
SHAPE = (SIDE, SIDE, 1)


def boxes(rng, count, channels=1):
    """Flat boxes of some intensities, white among them, on black [image, pixel * channel]."""
    images = np.zeros((count, SIDE, SIDE, channels))
    for image in images:
        for brightness in (rng.uniform(0.2, 1, channels), 1):
            (top, left), (height, width) = rng.integers(0, 6, 2), rng.integers(3, 8, 2)
            image[top : top + height, left : left + width] = brightness
    return images.reshape(count, -1)


def far_off(rng, pixels=SIDE**2):
    return np.exp(rng.normal(size=pixels))


def gradients(rng, images, gains, alone=ALONE):
    """Of kernel and bias, [round, pixel + 1, unit]; the first units know one image each."""
    rounds, count = images.shape[:2]
    deltas = rng.normal(size=(rounds, count, UNITS))
    for unit in range(alone):
        deltas[:, :unit, unit] = deltas[:, unit + 1 :, unit] = 0
    kernel = np.einsum("kip,kiu->kpu", images / gains, deltas)
    return np.concatenate([kernel, deltas.sum(1)[:, None]], axis=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_neighbours_mostly_have_in_common_gives_the_gains(channels):
    rng = np.random.default_rng(0)
    gains = far_off(rng, SIDE**2 * channels)
    images = boxes(rng, 300, channels)
    seen = images * (1 + 1e-3 * rng.normal(size=images.shape)) / gains
    found = flat_gains.flat_gains(seen, (SIDE, SIDE, channels))
    shown = found > 0
    assert shown.mean() > 0.9
    assert np.median(np.abs(found[shown] / gains[shown] - 1)) < 0.02


def test_mixtures_of_images_give_the_gains_too():
    rng = np.random.default_rng(0)
    gains, images = far_off(rng), boxes(rng, 900)
    mixed = rng.uniform(0.1, 1, (600, 900)) * (rng.random((600, 900)) < 3 / 900) @ images
    found = flat_gains.flat_gains(mixed / gains, SHAPE)
    ratio = found[found > 0] / gains[found > 0]
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.02


def test_where_neighbours_have_nothing_in_common_gains_are_not_found():
    rng = np.random.default_rng(0)
    gains, noise = far_off(rng), rng.uniform(0, 1, (300, SIDE**2))
    ratio = flat_gains.flat_gains(noise / gains, SHAPE) / gains
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) > 0.05


def test_pixels_that_no_column_shows_have_no_gain():
    rng = np.random.default_rng(0)
    images = boxes(rng, 300)
    images[:, :SIDE] = 0
    found = flat_gains.flat_gains(images, SHAPE)
    assert not found[:SIDE].any()
    assert found[SIDE:].mean() > 0.5


def missed(found, images):
    """Mean squared distance of an image from the nearest that was found, [round, image]."""
    return np.square(found[:, :, None] - images[:, None]).mean(-1).min(1)


@pytest.mark.parametrize("known", [True, False], ids=["gains known", "gains unknown"])
def test_images_that_stand_alone_are_found(known):
    rng = np.random.default_rng(0)
    gains = far_off(rng)
    images = boxes(rng, ROUNDS * IMAGES).reshape(ROUNDS, IMAGES, -1)
    seen = gradients(rng, images, gains)
    found = single_images.single_images(seen, ROUNDS, IMAGES, SHAPE, gains if known else None)
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    distances = missed(found, images)
    assert np.mean(distances[:, :ALONE] < 1e-2) > 0.8
    assert np.mean(distances[:, ALONE:] < 1e-2) < 0.3


def test_images_that_never_stand_alone_are_not_found():
    rng = np.random.default_rng(0)
    images = boxes(rng, ROUNDS * IMAGES).reshape(ROUNDS, IMAGES, -1)
    seen = gradients(rng, images, np.ones(SIDE**2), alone=0)
    found = single_images.single_images(seen, ROUNDS, IMAGES, SHAPE)
    assert np.mean(missed(found, images) < 1e-2) < 0.1


def test_the_last_rounds_are_looked_at_and_what_is_missing_is_black():
    rng = np.random.default_rng(0)
    images = boxes(rng, ROUNDS * IMAGES).reshape(ROUNDS, IMAGES, -1)
    seen = gradients(rng, images, np.ones(SIDE**2))
    found = single_images.single_images(seen, 2, 50, SHAPE, np.ones(SIDE**2))
    assert found.shape == (2, 50, SIDE**2)
    assert np.mean(missed(found, images[-2:])[:, :ALONE] < 1e-6) > 0.8
    assert not found[:, -1].any()
