"""Minibatch schedules, against the spec's scheme written out with NumPy."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from fl.data.sampling import Cohort, MinibatchSampler, cohort, cohort_size, run_seed

BATCH = 4
# Samples of each client: fewer than a batch, as many, more.
HELD = (1, 3, 4, 5, 40)


def shares(held=HELD):
    order = np.random.default_rng(0).permutation(1000)
    return np.split(order[: sum(held)], np.cumsum(held)[:-1])


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("seeds", [(500,) * 5, (500, 501, 502, 503, 504)], ids=["same", "own"])
def test_minibatches_are_drawn_by_each_clients_own_generator(seeds, local_steps):
    schedule = MinibatchSampler(shares(), BATCH, seeds).draw(6, local_steps)
    assert schedule.indices.shape == (6, len(HELD), local_steps, BATCH)
    assert schedule.indices.dtype == np.int32
    clients = [
        reference.Client(None, None, held, BATCH, seed)
        for held, seed in zip(shares(), seeds, strict=True)
    ]
    for number, client, step in np.ndindex(schedule.indices.shape[:3]):
        drawn = clients[client].draw()
        assert schedule.indices[number, client, step, : len(drawn)].tolist() == drawn.tolist()


def test_minibatches_stay_what_they_were_when_the_results_were_made():
    """A change of NumPy's generators would change every result: it must not go unnoticed."""
    sampler = MinibatchSampler([np.arange(10, 30), np.array([7, 5, 3])], 4, [500, 503])
    assert sampler.draw(2, 2).indices.tolist() == KNOWN


@pytest.mark.parametrize("calls", [(1,) * 7, (3, 4), (7, 0)])
@pytest.mark.parametrize("local_steps", [1, 3])
def test_minibatches_do_not_depend_on_how_many_rounds_are_drawn_at_once(calls, local_steps):
    seeds = range(len(HELD))
    whole = MinibatchSampler(shares(), BATCH, seeds).draw(7, local_steps).indices
    sampler = MinibatchSampler(shares(), BATCH, seeds)
    parts = [sampler.draw(rounds, local_steps).indices for rounds in calls]
    assert np.array_equal(np.concatenate(parts), whole)


def test_local_steps_are_drawn_as_so_many_rounds_would_be():
    steps = MinibatchSampler(shares(), BATCH, range(5)).draw(2, 3).indices
    rounds = MinibatchSampler(shares(), BATCH, range(5)).draw(6, 1).indices
    assert np.array_equal(steps.swapaxes(1, 2).reshape(rounds[:, :, 0].shape), rounds[:, :, 0])


def test_a_clients_minibatches_do_not_depend_on_the_other_clients():
    together = MinibatchSampler(shares(), BATCH, range(5)).draw(3, 2).indices
    alone = MinibatchSampler(shares()[3:4], BATCH, [3]).draw(3, 2).indices
    assert np.array_equal(together[:, 3:4], alone)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_a_minibatch_is_drawn_without_replacement_from_the_clients_own(held, batch, steps, seed):
    parts = shares(held)
    schedule = MinibatchSampler(parts, batch, [seed] * len(held)).draw(3, steps)
    indices, weights = schedule.indices, schedule.weights
    for (_, client, _), minibatch in zip(
        np.ndindex(indices.shape[:3]), indices.reshape(-1, batch), strict=True
    ):
        drawn = minibatch[weights[client] > 0]
        assert len(set(drawn.tolist())) == len(drawn) == min(batch, held[client])
        # Filling is only ever gathered, but gathered it is.
        assert set(minibatch.tolist()) <= set(parts[client].tolist())


def test_weights_make_a_mean_over_the_samples_that_are_there():
    sampler = MinibatchSampler(shares(), BATCH, range(5))
    expected = [[1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], *[[0.25] * 4] * 3]
    assert sampler.weights.dtype == np.float32
    assert np.array_equal(sampler.weights, np.array(expected, np.float32))
    assert np.array_equal(sampler.draw(1, 1).weights, sampler.weights)


def some(size=2, seed=0):
    return Cohort(size, np.random.default_rng(seed))


def test_each_client_is_drawn_as_often_as_the_fraction_says():
    clients, rounds = 30, 2000
    drawn = cohort(0.2, clients, np.random.default_rng(1)).draw(rounds, clients)
    assert drawn.shape == (rounds, 6)
    assert (np.diff(drawn, axis=1) > 0).all()  # ascending, nobody twice
    counts = np.bincount(drawn.ravel(), minlength=clients)
    assert chisquare(counts, np.full(clients, 0.2 * rounds)).pvalue > 0.01


@pytest.mark.parametrize(("share", "size"), [(None, 7), (0.5, 4), (0.01, 1), (0.99, 7)])
def test_a_fraction_of_the_clients_is_rounded_and_never_nobody(share, size):
    assert cohort_size(share, 7) == size
    chosen = cohort(share, 7, np.random.default_rng(0))
    assert (chosen is None) == (share is None)


def test_those_who_take_part_draw_as_they_would_alone():
    drawn = MinibatchSampler(shares(), BATCH, range(5), some()).draw(30, 2)
    for client in range(5):
        own = drawn.indices[drawn.clients == client]
        alone = MinibatchSampler(shares()[client : client + 1], BATCH, [client])
        assert np.array_equal(own, alone.draw(len(own), 2).indices[:, 0])


@pytest.mark.parametrize("chosen", [lambda: None, some])
def test_a_sampler_goes_on_from_where_another_stood(chosen):
    first = MinibatchSampler(shares(), BATCH, range(5), chosen())
    first.draw(3, 2)
    other = MinibatchSampler(shares(), BATCH, range(5), chosen())
    other.draw(1, 1)
    other.restore(first.state())
    for one, another in zip(first.draw(9, 2), other.draw(9, 2), strict=True):
        assert np.array_equal(one, another)


@pytest.mark.parametrize(("seed", "value"), [(0, 500), (1, 503), (2, 506), (5, 516), (7, 522)])
def test_run_seeds_are_the_papers(seed, value):
    assert run_seed(seed) == value
    assert isinstance(run_seed(seed), int)


def test_a_client_without_samples_is_refused_and_named():
    with pytest.raises(ValueError, match="client 1 holds no samples"):
        MinibatchSampler([np.arange(3), np.array([], int), np.arange(2)], BATCH, range(3))


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_samples_is_refused(batch):
    with pytest.raises(ValueError, match="batch size"):
        MinibatchSampler([np.arange(3)], batch, [0])


@pytest.mark.parametrize("seeds", [range(1), range(3)])
def test_every_client_needs_a_seed(seeds):
    with pytest.raises(ValueError, match=r"seed|shorter|longer"):
        MinibatchSampler([np.arange(3), np.arange(4)], BATCH, seeds).draw(1, 1)


# [round][client][step][batch], drawn with NumPy 2.4.6.
KNOWN = [
    [[[17, 21, 27, 20], [12, 18, 16, 29]], [[5, 7, 3, 7], [7, 5, 3, 7]]],
    [[[24, 28, 18, 21], [17, 12, 15, 27]], [[5, 7, 3, 7], [5, 7, 3, 7]]],
]
