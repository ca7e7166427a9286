"""The backdoor's trigger, and what it does to minibatches."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "mitigation"))  # a folder of scripts

import backdoor

from fl.data.datasets import Dataset
from fl.data.sampling import MinibatchSampler
from fl.simulation.training import Samples

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


SAMPLES, BATCH, CLIENTS = 60, 8, 4
SOURCES = np.array([50, 51, 53, 57, 58])
# The last client holds fewer samples than the clean part of a minibatch.
HELD = (20, 12, 9, 2)


def schedule(rounds=1, steps=1):
    parts = np.split(np.arange(sum(HELD)), np.cumsum(HELD)[:-1])
    return MinibatchSampler(parts, BATCH, [0] * CLIENTS).draw(rounds, steps)


def poison(*adversaries, clean=5, backdoored=2):
    return backdoor.Poison(np.array(adversaries, int), clean, backdoored, SOURCES, SAMPLES)


def attack(name, drawn, who, seed=0):
    return getattr(backdoor, name)(drawn, who, np.random.default_rng(seed))


each_attack = pytest.mark.parametrize("name", ["continuous", "one_shot"])


@each_attack
def test_without_adversaries_nothing_is_replaced(name):
    drawn = schedule(3, 2)
    got, honest = attack(name, drawn, poison()), backdoor.honest(drawn)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(honest), strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype


@each_attack
@given(st.data())
def test_honest_clients_are_left_alone(name, data):
    adversaries = data.draw(st.sets(st.integers(0, CLIENTS - 1)))
    drawn = schedule(2, 2)
    got = attack(name, drawn, poison(*sorted(adversaries)), data.draw(st.integers(0, 9)))
    honest = [client for client in range(CLIENTS) if client not in adversaries]
    assert np.array_equal(got.indices[:, honest], drawn.indices[:, honest])
    assert np.array_equal(got.weights[honest], drawn.weights[honest])
    assert (got.conduct.scale[honest] == 1).all()
    assert got.conduct.hardens[honest].all()
    assert not got.conduct.forgets[honest].any()


def test_continuous_adversaries_mix_clean_samples_with_their_part_of_the_trigger():
    drawn = schedule(3, 2)
    got = attack("continuous", drawn, poison(0, 1, 2, 3))
    for client, part in enumerate([0, 1, 2, 0]):
        clean = min(5, HELD[client])
        own = got.indices[:, client]
        assert np.array_equal(own[..., :clean], drawn.indices[:, client, :, :clean])
        variants, sources = np.divmod(own[..., clean : clean + 2], SAMPLES)
        assert (variants == 2 + part).all()
        assert np.isin(sources, SOURCES).all()
        assert (sources[..., 0] != sources[..., 1]).all()
        expected = np.where(np.arange(BATCH) < clean + 2, 1 / (clean + 2), 0)
        np.testing.assert_allclose(got.weights[client], expected, rtol=1e-6)
    assert (got.conduct.scale == 1).all()
    assert not got.conduct.hardens.any()
    assert not got.conduct.forgets.any()


def test_model_replacement_is_of_a_minibatch_with_the_whole_trigger():
    got = attack("one_shot", schedule(), poison(2, clean=0, backdoored=5))
    variants, sources = np.divmod(got.indices[0, 2, 0, :5], SAMPLES)
    assert (variants == 1).all()
    assert sorted(sources) == SOURCES.tolist()
    assert got.weights[2].tolist() == [np.float32(0.2)] * 5 + [0.0] * 3
    assert got.conduct.scale.tolist() == [1, 1, CLIENTS, 1]
    assert got.conduct.forgets.tolist() == [False, False, True, False]
    assert got.conduct.hardens.tolist() == [True, True, False, True]


@each_attack
def test_rounds_may_be_drawn_one_by_one(name):
    whole = attack(name, schedule(3, 2), poison(0, 3))
    rng = np.random.default_rng(0)
    drawn = schedule(3, 2)
    singly = [
        getattr(backdoor, name)(drawn._replace(indices=drawn.indices[[r]]), poison(0, 3), rng)
        for r in range(3)
    ]
    assert np.array_equal(np.concatenate([each.indices for each in singly]), whole.indices)


def test_the_schedule_passed_in_stays_as_it_is():
    drawn = schedule()
    before = drawn.indices.copy(), drawn.weights.copy()
    attack("continuous", drawn, poison(1))
    assert np.array_equal(drawn.indices, before[0])
    assert np.array_equal(drawn.weights, before[1])


@pytest.mark.parametrize(
    ("dataset", "batch", "expected"),
    [("fashion_mnist", 32, (21, 10)), ("cifar10", 32, (24, 8)), ("digits", 3, (2, 0))],
)
def test_sizes_are_rounded_down(dataset, batch, expected):
    assert backdoor.sizes(dataset, batch) == expected


def test_attack_success_is_measured_on_every_image_of_the_source():
    labels = np.array([7, 3, 7, 0])
    indices = backdoor.test_indices(labels)
    assert indices.tolist() == [4, 6]
    clean = samples(4, labels)
    images, targets = backdoor.with_triggers(clean).take(indices)
    assert targets.tolist() == [3, 3]
    expected = np.minimum(clean.take(np.array([0, 2]))[0] + backdoor.trigger(SHAPE)[None], 1)
    np.testing.assert_array_equal(images, expected)


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
