"""The backdoor's trigger, whole and in parts."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.data.datasets import Dataset
from fl.simulation.training import Samples

(backdoor,) = load("mitigation", "backdoor")

SHAPE = (6, 12, 3)


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


def samples(count=20, labels=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    labels = rng.integers(0, 10, count, np.int32) if labels is None else np.asarray(labels)
    return Samples(jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.float32(255))


def test_some_samples_alone_are_those_that_were_chosen():
    all_, variants = backdoor.with_triggers(samples()), np.array([[0, 1], [2, 4]])
    indices = 20 * variants + np.array([[3, 17], [3, 0]])
    some, places = all_.only(indices)
    assert len(some.samples.labels) == indices.size
    for alone, among_all in zip(some.take(places), all_.take(indices), strict=True):
        assert np.array_equal(alone, among_all)


def test_clean_variants_are_the_same_bits():
    clean = samples()
    indices = np.arange(20).reshape(4, 5)
    for got, expected in zip(
        backdoor.with_triggers(clean).take(indices), clean.take(indices), strict=True
    ):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_other_variants_carry_the_trigger_and_the_targets_label(variant):
    clean = samples()
    images, labels = backdoor.with_triggers(clean).take(variant * 20 + np.arange(20))
    trigger = backdoor.trigger(SHAPE, None if variant == 1 else variant - 2)
    brighter = clean.take(np.arange(20))[0] + trigger[None]
    np.testing.assert_array_equal(images, np.minimum(brighter, 1))
    assert brighter.max() > 1, "nothing here is cut off"
    assert set(np.asarray(labels)) == {3}


def dataset(train=(7, 3), test=(7, 3), shape=SHAPE):
    def part(labels):
        return np.zeros((len(labels), *shape), np.uint8), np.array(labels, np.int32)

    return Dataset("made up", *part(train), *part(test), scale=255.0)


def test_data_sets_that_cannot_be_attacked_are_refused():
    backdoor.check(dataset())
    with pytest.raises(ValueError, match="no training image of class 7"):
        backdoor.check(dataset(train=(3, 3)))
    with pytest.raises(ValueError, match="no test image of class 3"):
        backdoor.check(dataset(test=(7, 1)))
    with pytest.raises(ValueError, match="at least 3x9"):
        backdoor.check(dataset(shape=(8, 8, 1)))


@pytest.mark.parametrize("shape", [(2, 9, 1), (3, 8, 1)])
def test_images_smaller_than_the_trigger_are_refused(shape):
    with pytest.raises(ValueError, match="at least 3x9"):
        backdoor.trigger(shape)


def test_parts_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        backdoor.trigger(SHAPE, 3)
