"""Rounds of some of the clients, while the others rest on the host."""

import time

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_run import SCORES, bits, make
from test_simulation import Case, blur, start, work

from fl.data.sampling import Cohort, MinibatchSampler
from fl.simulation import engine, keeping, resting, run
from fl.simulation.mapping import LOOP, MAPPINGS, VMAP
from fl.simulation.rounds import Aggregator

CASE = Case("softmax", held=(9, 2, 4, 17, 1, 5, 8))
CLIENTS = len(CASE.held)


def drawn(size, rounds, local_steps=1):
    cohort = Cohort(size, np.random.default_rng(3))
    return MinibatchSampler(CASE.parts(), 4, CASE.seeds(), cohort).draw(rounds, local_steps)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_those_who_stay_away_keep_what_they_have_to_the_bit(mapping):
    state, rounds, _ = start(CASE, "secadam", 1, mapping, rest=True)
    state, _ = rounds(state, drawn(3, 4))
    before = engine.copied(state)
    schedule = drawn(3, 5)
    schedule = schedule._replace(clients=schedule.clients[4:], indices=schedule.indices[4:])
    state, _ = rounds(state, schedule)
    (who,) = schedule.clients
    kept = before.clients.everybody(), state.clients.everybody()
    for old, new in zip(*map(jax.tree.leaves, kept), strict=True):
        changed = (old != new).reshape(CLIENTS, -1).any(1)
        assert np.flatnonzero(changed).tolist() == who.tolist()


@pytest.mark.parametrize("algorithm", ["secadam", "fedavg"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_everybody_drawn_is_as_nobody_resting(mapping, algorithm):
    def after(rest, **options):
        state, rounds, sampler = start(CASE, algorithm, 1, mapping, rest=rest, **options)
        state, losses = rounds(state, sampler.draw(6, 1))
        return ravel_pytree((state.params, losses, engine.client_states(state, CLIENTS)))[0]

    one, other = after(rest=True), after(rest=False, keep_clients=True)
    # Six rounds in one scan are compiled otherwise than one.
    np.testing.assert_allclose(one, other, rtol=1e-5 if mapping == VMAP else 0, atol=1e-7)


def test_noise_is_of_the_client_and_not_of_its_place():
    def after(who):
        options = {"rest": True, "hooks": {"privatise": blur}}
        state, rounds, sampler = start(CASE, "fedavg", 1, LOOP, **options)
        schedule = sampler.draw(1, 1)
        clients = np.array([who], np.int32)
        schedule = schedule._replace(clients=clients, indices=schedule.indices[:, who])
        state, _ = rounds(state, schedule)
        return ravel_pytree(state.params)[0]

    alone, other, both = after([2]), after([5]), after([2, 5])
    np.testing.assert_allclose((alone + other) / 2, both, atol=1e-6)


def test_a_host_that_aggregates_is_told_who_takes_part():
    told = []

    def aggregate(messages, memory, received, who):
        told.append(who.tolist())
        return jax.tree.map(lambda leaf: leaf.mean(0), messages), memory

    hooks = {"aggregator": Aggregator(lambda *_: (), aggregate, on_host=True)}
    for mapping in (LOOP, "sharded"):
        told.clear()
        state, rounds, _ = start(CASE, "secadam", 1, mapping, rest=True, hooks=hooks)
        schedule = drawn(3, 4)
        rounds(state, schedule)
        assert told == schedule.clients.tolist()


def test_the_device_holds_one_cohort_however_many_clients_there_are():
    """And the host only what its clients that ever took part have written."""

    def on_the_device(clients):
        case = Case("softmax", held=(3,) * clients)
        federation, rounds, _ = start(case, "secadam", 1, rest=True)
        cohort = Cohort(5, np.random.default_rng(0))
        sampler = MinibatchSampler(case.parts(), 4, case.seeds(), cohort)
        state, _ = rounds(federation, sampler.draw(3, 1))
        held = jax.tree.leaves(state.clients.packed().states)
        assert all(isinstance(leaf, np.ndarray) and len(leaf) <= 15 for leaf in held)
        own = [leaf for leaf in jax.live_arrays() if leaf.dtype == np.float32]
        return max(leaf.nbytes for leaf in own)

    assert on_the_device(1000) == on_the_device(100)


def test_clients_start_alike_and_keep_what_is_put():
    clients = resting.Resting({"a": np.array([1.0, 0.0])}, 4)
    expected = np.tile([1.0, 0.0], (4, 1))
    rng = np.random.default_rng(0)
    for _ in range(9):
        who = np.sort(rng.choice(4, rng.integers(1, 3), replace=False))
        assert np.array_equal(clients.take(who)["a"], expected[who])
        new = rng.normal(size=(len(who), 2))
        before = clients.copied()
        kept = expected.copy()
        clients.put(who, {"a": new})
        expected[who] = new
        assert np.array_equal(before.everybody()["a"], kept)
        assert np.array_equal(clients.everybody()["a"], expected)


def test_a_copy_of_a_run_stands_where_the_run_stood(tmp_path):
    copies = {5: tmp_path / "5.npz"}
    plan = run.Plan(rounds=9, local_steps=1, evaluate_every=9)
    federation, sampler = make("secadam", cohort=2)
    outcome = run.train(federation, sampler, SCORES, plan, copies=copies)
    other, again = make("secadam", cohort=2)
    state = keeping.stand(copies[5], outcome.state, again)
    state, _ = other.run(state, again.draw(4, 1))
    assert bits(state) == bits(outcome.state)


def test_a_round_takes_as_long_however_many_clients_there_are():
    """A hundred times as many, of which as many are drawn: turns of both, the fastest counts."""
    taken = {200: [], 20_000: []}
    running = {}
    for clients in taken:
        parts = [np.arange(sum(CASE.held))] * clients
        sampler = MinibatchSampler(parts, 4, range(clients), Cohort(10, np.random.default_rng(0)))
        given = work("softmax", "secadam", 1), CASE.params(), CASE.samples(), clients, 1
        federation = engine.start(*given, LOOP, rest=True)
        state, _ = federation.run(federation.state, sampler.draw(2, 1))
        running[clients] = [state, federation, sampler]
    for _ in range(5):
        for clients, turn in running.items():
            state, federation, sampler = turn
            began = time.perf_counter()
            turn[0], losses = federation.run(state, sampler.draw(5, 1))
            jax.block_until_ready(losses)
            taken[clients].append(time.perf_counter() - began)
    assert min(taken[20_000]) < 3 * min(taken[200])
