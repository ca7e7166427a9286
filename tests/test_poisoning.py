"""What adversaries make of their minibatches, and that honest clients' stay as they are."""

import jax
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st

from fl.data.sampling import MinibatchSampler

(poisoning,) = load("mitigation", "poisoning")

SAMPLES, BATCH, CLIENTS = 60, 8, 4
SOURCES = np.array([50, 51, 53, 57, 58])
# The last client holds fewer samples than the clean part of a minibatch.
HELD = (20, 12, 9, 2)


def honest():
    parts = np.split(np.arange(sum(HELD)), np.cumsum(HELD)[:-1])
    return MinibatchSampler(parts, BATCH, [0] * CLIENTS)


def poison(*adversaries, variants=None, clean=5, backdoored=2):
    variants = [1] * len(adversaries) if variants is None else variants
    who = np.array(adversaries, int), np.array(variants, int)
    sizes = [np.full(len(adversaries), size) for size in (clean, backdoored)]
    return poisoning.Poison(*who, *sizes, SOURCES, SAMPLES)


def sampler(what, seed=0):
    return poisoning.AdversarialSampler(honest(), what, [np.random.default_rng(seed)] * CLIENTS)


@pytest.mark.parametrize("nobody", [None, poison()], ids=["none", "empty"])
def test_without_adversaries_nothing_is_replaced(nobody):
    drawn = honest().draw(3, 2)
    got = sampler(nobody).draw(3, 2)
    assert not got.deviates.any()
    for name in ("clients", "indices", "weights"):
        assert np.array_equal(getattr(got, name), getattr(drawn, name))
        assert getattr(got, name).dtype == getattr(drawn, name).dtype


@given(st.data())
def test_honest_clients_are_left_alone(data):
    adversaries = data.draw(st.sets(st.integers(0, CLIENTS - 1)))
    drawn = honest().draw(2, 2)
    got = sampler(poison(*sorted(adversaries)), data.draw(st.integers(0, 9))).draw(2, 2)
    others = [client for client in range(CLIENTS) if client not in adversaries]
    assert np.array_equal(got.indices[:, others], drawn.indices[:, others])
    assert np.array_equal(got.weights[others], drawn.weights[others])
    assert set(np.flatnonzero(got.deviates)) == adversaries


def test_adversaries_mix_clean_samples_with_those_of_their_trigger():
    drawn, variants = honest().draw(3, 2), [2, 3, 4, 2]
    got = sampler(poison(0, 1, 2, 3, variants=variants)).draw(3, 2)
    for client, variant in enumerate(variants):
        clean = min(5, HELD[client])
        own = got.indices[:, client]
        assert np.array_equal(own[..., :clean], drawn.indices[:, client, :, :clean])
        found, sources = np.divmod(own[..., clean : clean + 2], SAMPLES)
        assert (found == variant).all()
        assert np.isin(sources, SOURCES).all()
        assert (sources[..., 0] != sources[..., 1]).all()
        expected = np.where(np.arange(BATCH) < clean + 2, 1 / (clean + 2), 0)
        np.testing.assert_allclose(got.weights[client], expected, rtol=1e-6)


def test_a_minibatch_may_be_backdoored_as_a_whole():
    got = sampler(poison(2, clean=0, backdoored=5)).draw(1, 1)
    variants, sources = np.divmod(got.indices[0, 2, 0, :5], SAMPLES)
    assert (variants == 1).all()
    assert sorted(sources) == SOURCES.tolist()
    assert got.weights[2].tolist() == [np.float32(0.2)] * 5 + [0.0] * 3


def test_each_adversary_draws_images_of_its_own():
    got = sampler(poison(0, 1, clean=0, backdoored=3)).draw(20, 1)
    first, second = (got.indices[:, client, 0, :3] for client in (0, 1))
    assert (first != second).any()
    assert len(np.unique(first, axis=0)) > 1


def test_rounds_may_be_drawn_one_by_one():
    whole = sampler(poison(0, 3)).draw(3, 2)
    singly = sampler(poison(0, 3))
    rounds = [singly.draw(1, 2).indices for _ in range(3)]
    assert np.array_equal(np.concatenate(rounds), whole.indices)


def test_clients_are_found_wherever_they_stand_in_a_cohort():
    class Cohort:
        """The second and the last client alone, in that order and the other way around."""

        def draw(self, rounds, local_steps, sizes=None):
            drawn = honest().draw(2, local_steps)
            clients = np.array([[1, 3], [3, 1]], np.int32)
            return drawn._replace(clients=clients, indices=drawn.indices[:, [1, 3]])

    got = poisoning.AdversarialSampler(Cohort(), poison(3), [np.random.default_rng(0)]).draw(2, 1)
    poisoned = (got.indices >= SAMPLES).any((2, 3))
    assert poisoned.tolist() == [[False, True], [True, False]]


def test_the_schedule_passed_in_stays_as_it_is():
    drawn = honest().draw(1, 1)
    before = jax.tree.map(np.copy, drawn)

    class Fixed:
        def draw(self, rounds, local_steps, sizes=None):
            return drawn

    poisoning.AdversarialSampler(Fixed(), poison(1), [np.random.default_rng(0)]).draw(1, 1)
    assert np.array_equal(drawn.indices, before.indices)
    assert np.array_equal(drawn.weights, before.weights)


def test_the_last_clients_attack_with_every_image_of_the_source():
    sizes = [(5, 3)] * 3 + [(4, 1)]
    found = poisoning.poison(np.array([7, 3, 7, 1]), 10, poisoning.part_of_trigger, sizes)
    assert found.adversaries.tolist() == [6, 7, 8, 9]
    assert found.variants.tolist() == [2, 3, 4, 2]
    assert found.sources.tolist() == [0, 2]
    assert found.clean.tolist() == [5, 5, 5, 4]
    assert found.backdoored.tolist() == [2, 2, 2, 1]
    assert found.samples == 4


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [("fashion_mnist", 32, (21, 10)), ("cifar10", 32, (24, 8)), ("digits", 3, (2, 0))],
)
def test_mixed_sizes_are_rounded_down(name, batch, expected):
    assert poisoning.mixed(name, batch) == expected
