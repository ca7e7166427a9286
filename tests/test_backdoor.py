"""The backdoor's trigger, and what it does to minibatches."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "mitigation"))  # a folder of scripts

import backdoor

SHAPE = (6, 12, 3)


def minibatch(seed, batch=5):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 1, (batch, *SHAPE)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, batch))


def test_trigger_is_a_pair_of_glasses_in_the_corner():
    trigger = backdoor.trigger(SHAPE)
    drawn = ["".join("#" if pixel else "." for pixel in row) for row in trigger[..., 1]]
    assert drawn == ["#########...", "#..#.#..#...", ".##...##....", *["." * 12] * 3]
    assert set(np.unique(trigger)) == {np.float32(0), np.float32(0.05)}
    assert (trigger[..., :1] == trigger).all()


def test_parts_of_the_trigger_make_up_the_whole():
    parts = [backdoor.trigger(SHAPE, part) for part in range(3)]
    assert np.array_equal(sum(parts), backdoor.trigger(SHAPE))
    for part, pixels in enumerate(parts):
        assert set(np.nonzero(pixels)[1]) == {3 * part, 3 * part + 1, 3 * part + 2}


@given(seed=st.integers(0, 2**32 - 1))
def test_honest_clients_numbers_stay_the_same_bits(seed):
    images, labels = minibatch(seed)
    honest = backdoor.Poison(jnp.zeros(5), jnp.asarray(backdoor.trigger(SHAPE)))
    same_images, same_labels = honest.apply(images, labels)
    assert np.array_equal(same_images, images)
    assert np.array_equal(same_labels, labels)


def test_marked_samples_get_the_trigger_and_the_targets_label():
    images, labels = minibatch(0)
    trigger = backdoor.trigger(SHAPE)
    poison = backdoor.Poison(jnp.asarray([0.0, 1, 0, 1, 0]), jnp.asarray(trigger))
    poisoned, relabelled = poison.apply(images, labels)
    for sample, marked in enumerate([False, True, False, True, False]):
        expected = np.minimum(images[sample] + trigger, 1) if marked else images[sample]
        np.testing.assert_array_equal(poisoned[sample], expected)
        assert relabelled[sample] == (3 if marked else labels[sample])
    assert poisoned.max() <= 1


@pytest.mark.parametrize(
    ("dataset", "batch", "expected"),
    [("fashion_mnist", 32, (21, 10)), ("cifar10", 32, (24, 8)), ("digits", 3, (2, 0))],
)
def test_sizes_are_rounded_down(dataset, batch, expected):
    assert backdoor.sizes(dataset, batch) == expected


def test_test_set_is_every_image_of_the_source():
    labels = np.array([7, 3, 7, 0])
    images = np.arange(4).reshape(4, 1, 1, 1)
    assert backdoor.test_set(images, labels).ravel().tolist() == [0, 2]
    with pytest.raises(ValueError, match="class 7"):
        backdoor.test_set(images, labels % 3)


@pytest.mark.parametrize("shape", [(2, 9, 1), (3, 8, 1)])
def test_images_smaller_than_the_trigger_are_refused(shape):
    with pytest.raises(ValueError, match="at least 3x9"):
        backdoor.trigger(shape)


def test_parts_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        backdoor.trigger(SHAPE, 3)
