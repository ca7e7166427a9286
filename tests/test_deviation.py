"""Clients that depart from the protocol, and servers that put something in place of the mean."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from test_simulation import BATCH, Case, assert_same_bits, each_mapping, start, work

from fl.simulation import clip_and_noise, engine, pooling
from fl.simulation import mapping as mapping_module
from fl.simulation.algorithms import Broadcast
from fl.simulation.mapping import LOOP, MAPPINGS, VMAP
from fl.simulation.pgd import none
from fl.simulation.rounds import Aggregator

# A multiple of two, so that the last one is in a group of its own when groups hold two.
CASE = Case("softmax", held=(9, 2, 4, 7, 5))
CLIENTS, ADVERSARY = 5, 2

pytestmark = pytest.mark.usefixtures("double_precision", "small_groups")


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(mapping_module, "GROUP", 2)


DEVIATES = np.arange(CLIENTS) == ADVERSARY
NOBODY = np.zeros(CLIENTS, bool)


def replacement(message, state, before):
    """Model replacement: a message scaled by the number of clients, and a state set back."""
    return optax.tree.scale(CLIENTS, message), before


def rounds(mapping, *deviating, algorithm="fedavg", local_steps=1, hooks=None, seed=0):
    """Run a round for each answer to who deviates -> the states after each, those of clients
    stacked.
    """
    state, run, sampler = start(
        CASE, algorithm, local_steps, mapping, keep_clients=True, hooks=hooks, seed=seed
    )
    states = []
    for deviates in deviating:
        schedule = sampler.draw(1, local_steps)._replace(deviates=deviates)
        state, _ = run(state, schedule)
        # Copies, since the next round gives these buffers up.
        own = engine.client_states(state, CLIENTS)
        states.append(jax.tree.map(np.array, state._replace(clients=own)))
    return states


def vector(params):
    return np.asarray(ravel_pytree(params)[0])


@cache
def updates(hardened=True):
    """Every FedAvg client's update in the first round, computed one by one."""
    _, _, sampler = start(CASE, "fedavg", 1)
    drawn, samples = sampler.draw(1, 1), CASE.samples()
    todo = work(CASE.model, "fedavg", 1)
    todo = todo if hardened else todo._replace(harden=none())
    found = []
    for indices, weights in zip(drawn.indices[0, :, 0], drawn.weights, strict=True):
        local, _, _ = todo.local_step(
            Broadcast(CASE.params()),
            CASE.params(),
            optax.sgd(0.1).init(CASE.params()),
            *samples.take(indices),
            weights,
            None,
        )
        found.append(vector(CASE.params()) - vector(local))
    return np.stack(found)


@each_mapping
@pytest.mark.parametrize("local_steps", [1, 3])
def test_where_nobody_deviates_nothing_changes(local_steps, mapping):
    def run(deviates, hooks):
        options = {"algorithm": "secadam", "local_steps": local_steps, "hooks": hooks}
        return rounds(mapping, *[deviates] * 3, **options)[-1]

    without, honest = run(None, {}), run(NOBODY, {"deviate": replacement})
    # Code that could do otherwise may round differently in the last place.
    for leaf, another in zip(*map(jax.tree.leaves, (without, honest)), strict=True):
        np.testing.assert_allclose(leaf, another, rtol=1e-12, atol=1e-15)


@each_mapping
def test_what_one_client_does_is_data_to_all_others(mapping):
    """The others' states after a poisoned round are the same bits as after an honest one."""
    honest, poisoned = (
        rounds(mapping, deviates, algorithm="secadam", hooks={"deviate": replacement})[0].clients
        for deviates in (NOBODY, DEVIATES)
    )
    for leaf, another in zip(*map(jax.tree.leaves, (honest, poisoned)), strict=True):
        assert np.array_equal(leaf[~DEVIATES], another[~DEVIATES])


@each_mapping
def test_model_replacement_puts_the_adversarys_model_in_the_average(mapping):
    sent = updates().copy()
    # Those who deviate do not harden.
    sent[ADVERSARY] = updates(hardened=False)[ADVERSARY]
    (state,) = rounds(mapping, DEVIATES, hooks={"deviate": replacement})
    others = np.delete(sent, ADVERSARY, axis=0).sum(0) / CLIENTS
    adversarys_model = vector(CASE.params()) - sent[ADVERSARY]
    np.testing.assert_allclose(vector(state.params), adversarys_model - others, rtol=1e-6)


@each_mapping
def test_a_client_that_deviates_trains_on_its_images_as_they_are(mapping):
    sent = updates().copy()
    assert np.abs(sent - updates(hardened=False)).max() > 1e-3
    sent[ADVERSARY] = updates(hardened=False)[ADVERSARY]
    (state,) = rounds(mapping, DEVIATES)
    np.testing.assert_allclose(
        vector(state.params), vector(CASE.params()) - sent.mean(0), rtol=1e-6
    )


@each_mapping
@pytest.mark.parametrize("local_steps", [1, 2])
def test_a_client_that_deviates_may_go_on_from_before_the_round(local_steps, mapping):
    options = {
        "algorithm": "secadam",
        "local_steps": local_steps,
        "hooks": {"deviate": replacement},
    }
    before, after, later = rounds(mapping, NOBODY, DEVIATES, NOBODY, **options)
    _, usual, _ = rounds(mapping, NOBODY, NOBODY, NOBODY, **options)

    def of(state, client):
        return jax.tree.map(lambda leaf: leaf[client], state.clients)

    for client in range(CLIENTS):
        same = before if client == ADVERSARY else usual
        assert_same_bits(of(after, client), of(same, client))
    # What it sent did count, and it goes on from there.
    assert np.abs(vector(after.params) - vector(usual.params)).max() > 1e-6
    steps = [of(later, client)[0].count for client in (0, ADVERSARY)]
    assert steps == [3 * local_steps, 2 * local_steps]


def test_no_mean_client_stands_for_those_whose_messages_differ():
    honest = work(CASE.model, "secadam", 1)
    assert pooling.applies(honest, 1, CASE.params())
    private, aggregator = clip_and_noise.privatiser(1.0, 0.1), Aggregator(None, None)
    for hook in ({"deviate": replacement}, {"privatise": private}, {"aggregator": aggregator}):
        assert not pooling.applies(honest._replace(**hook), 1, CASE.params()), hook


@each_mapping
def test_a_client_that_deviates_may_keep_what_it_learned(mapping):
    def silent(message, state, before):
        return optax.tree.zeros_like(message), state

    options = {"algorithm": "secadam", "hooks": {"deviate": silent}}
    (silenced,), (usual,) = (
        rounds(mapping, deviates, **options) for deviates in (DEVIATES, NOBODY)
    )
    # What its state holds differs by the hardening that it left out, and not by the round.
    assert silenced.clients[0].count.tolist() == usual.clients[0].count.tolist()
    others = [
        jax.tree.map(lambda leaf: leaf[~DEVIATES], each.clients) for each in (silenced, usual)
    ]
    assert_same_bits(*others)


@each_mapping
def test_who_deviates_is_told_by_their_number_in_a_cohort_too(mapping):
    def silent(message, state, before):
        return optax.tree.zeros_like(message), state

    state, run, sampler = start(CASE, "fedavg", 1, mapping, rest=True, hooks={"deviate": silent})
    drawn, cohort = sampler.draw(1, 1), np.array([[ADVERSARY, 4]], np.int32)
    state, _ = run(
        state,
        drawn._replace(clients=cohort, indices=drawn.indices[:, cohort[0]], deviates=DEVIATES),
    )
    expected = vector(CASE.params()) - updates()[4] / 2
    np.testing.assert_allclose(vector(state.params), expected, rtol=1e-6)


def test_deviating_without_states_of_ones_own_is_refused():
    state, run, sampler = start(CASE, "secadam", 1)
    with pytest.raises(ValueError, match="keep_clients"):
        run(state, sampler.draw(1, 1)._replace(deviates=NOBODY))


@cache  # the engine compiles anew for each aggregator that it is given
def last_of_all():
    """An aggregator that takes the last client's message, and remembers all messages' sums."""

    def init(message, clients):
        return jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape)), message)

    def aggregate(messages, memory):
        memory = jax.tree.map(jnp.add, memory, messages)
        return jax.tree.map(lambda leaf: leaf[-1], messages), memory

    return Aggregator(init, aggregate)


@each_mapping
def test_an_aggregator_gets_every_clients_message_in_order(mapping):
    (state,) = rounds(mapping, None, hooks={"aggregator": last_of_all()})
    received = np.asarray(jax.vmap(lambda message: ravel_pytree(message)[0])(state.memory))
    np.testing.assert_allclose(received, updates(), rtol=1e-6, atol=1e-12)
    expected = vector(CASE.params()) - updates()[-1]
    np.testing.assert_allclose(vector(state.params), expected, rtol=1e-6)


@each_mapping
def test_an_aggregator_remembers_from_round_to_round(mapping):
    first, second = rounds(mapping, None, None, hooks={"aggregator": last_of_all()})
    more = vector(second.memory) - vector(first.memory)
    alone = vector(rounds(mapping, None, hooks={"aggregator": last_of_all()})[0].memory)
    assert_same_bits(
        first.memory, rounds(mapping, None, hooks={"aggregator": last_of_all()})[0].memory
    )
    assert np.abs(more - alone).max() > 1e-6  # another round's messages


@each_mapping
def test_a_round_that_does_not_count_leaves_the_server_where_it_was(mapping):
    def every_other():
        def aggregate(messages, rounds):
            return jax.tree.map(lambda leaf: leaf.mean(0), messages), rounds + 1

        return Aggregator(lambda *_: jnp.zeros((), int), aggregate, lambda rounds: rounds % 2 == 1)

    hooks = {"aggregator": every_other()}
    options = {"algorithm": "secadam_fedadam", "hooks": hooks}
    first, second, third = rounds(mapping, None, None, None, **options)
    assert_same_bits((first.params, first.server), (second.params, second.server))
    assert np.abs(vector(third.params) - vector(second.params)).max() > 1e-5
    # The clients' states, and all that is drawn, go on.
    assert np.abs(vector(second.clients) - vector(first.clients)).max() > 1e-6
    assert (second.key != first.key).any()


def test_a_host_that_aggregates_gets_numpy_arrays_and_one_mapping():
    def on_host():
        def aggregate(messages, memory, received, who):
            assert received.params is not None
            assert who.tolist() == list(range(CLIENTS))
            assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(messages))
            return jax.tree.map(lambda leaf: leaf.mean(0), messages), memory

        return Aggregator(lambda *_: (), aggregate, on_host=True)

    hooks = {"aggregator": on_host()}
    (got,) = rounds(None, None, algorithm="secadam", hooks=hooks)
    (expected,) = rounds(LOOP, None, algorithm="secadam")
    np.testing.assert_allclose(vector(got.params), vector(expected.params), rtol=1e-12)
    with pytest.raises(ValueError, match="unknown mapping"):
        rounds(VMAP, None, hooks=hooks)


def guard(step, key):
    return clip_and_noise.privatiser(1e-3, 1e-4)(step, key)


@each_mapping
def test_a_guard_sees_the_servers_step_and_draws_anew_every_round(mapping):
    first, second = rounds(mapping, None, None, hooks={"guard": guard})
    steps = np.diff([vector(CASE.params()), vector(first.params), vector(second.params)], axis=0)
    full = updates().mean(0)
    clipped = -full * 1e-3 / np.linalg.norm(full)
    noise = steps[0] - clipped
    assert 0.5e-4 < noise.std() < 2e-4
    # Were the noise the same each round, this would be a difference of two clipped steps alone.
    assert np.linalg.norm(steps[1] - noise) > 1.05e-3
    again = rounds(mapping, None, hooks={"guard": guard}, seed=1)[0]
    assert np.abs(vector(again.params) - vector(first.params)).max() > 1e-5


def test_a_guards_noise_does_not_depend_on_the_mapping():
    ends = [
        vector(rounds(mapping, None, None, hooks={"guard": guard})[-1].params)
        for mapping in MAPPINGS
    ]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-9)


def test_batches_are_as_large_as_the_tests_say():
    assert BATCH == 4
    assert max(CASE.held) > BATCH > min(CASE.held)
