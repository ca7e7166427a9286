"""The compiled engine does what the plain loops of `reference` say, however it is mapped."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.flatten_util import ravel_pytree

from fl.data.sampling import MinibatchSampler, Schedule
from fl.simulation import algorithms, engine, models, pgd, training
from fl.simulation import mapping as mapping_module
from fl.simulation.algorithms import Broadcast
from fl.simulation.mapping import LOOP, MAPPINGS, VMAP, default_mapping
from fl.simulation.rounds import State, Work, next_key, step_key
from fl.simulation.training import Samples

ROUNDS = 20
BATCH = 4
ETA = 0.1  # far larger than the experiments', so that hardening shows
# Samples of each client: more than a batch, as many, fewer. The engine takes float32 weights, in
# which 1/4, 1/2 and 1 are exact, so that float64 runs are not blurred by them.
RAGGED = (9, 2, 4, 17, 1)
# More than one group of the engine's own size, and a remainder.
GROUPS = RAGGED * 4 + (12, 1, 2)


each_mapping = pytest.mark.parametrize("mapping", MAPPINGS)
# The states of clients that take several steps are kept in any case.
each_work = pytest.mark.parametrize(
    ("local_steps", "keep_clients"),
    [(1, False), (1, True), (3, False)],
    ids=["one step", "one step, clients kept", "three steps"],
)


class Case(NamedTuple):
    """Who trains what on which samples."""

    model: str
    held: tuple[int, ...] = RAGGED
    shape: tuple[int, int, int] = (4, 4, 1)

    def arrays(self):
        rng = np.random.default_rng(len(self.held))
        images = rng.integers(0, 256, (sum(self.held), *self.shape), np.uint8)
        return images, rng.integers(0, 10, sum(self.held), np.int32)

    def samples(self):
        return Samples(*map(jnp.asarray, self.arrays()), jnp.asarray(255.0))

    def parts(self):
        order = np.random.default_rng(1).permutation(sum(self.held))
        return np.split(order, np.cumsum(self.held)[:-1])

    def seeds(self):
        return range(500, 500 + len(self.held))

    def params(self):
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf, float), _draw_params(self.model, self.shape)
        )


@cache
def _draw_params(model, shape):
    """Draw parameters, biases too. Faster than compiling Flax's initialisers."""
    example = jnp.zeros((1, *shape), "float32")
    shapes = jax.eval_shape(models.MODELS[model]().init, jax.random.key(0), example)
    rng = np.random.default_rng(2)

    def draw(leaf):
        if len(leaf.shape) > 1:  # a kernel
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return rng.uniform(0, 0.5, leaf.shape)

    return jax.tree.map(draw, shapes)


class Outcome(NamedTuple):
    """What came of some rounds."""

    w: np.ndarray  # [parameters]
    losses: np.ndarray  # [round]
    clients: list  # [client]
    state: State | None = None  # of the engine


@cache  # runs of the same work share what is compiled
def work(model, algorithm, local_steps):
    losses = training.sample_losses(models.MODELS[model]())
    return Work(algorithms.build(algorithm, local_steps), losses, pgd.pgd(losses, ETA))


def start(
    case,
    algorithm,
    local_steps,
    mapping=None,
    keep_clients=False,
    params=None,
    hooks=None,
    seed=0,
    rest=False,
):
    sampler = MinibatchSampler(case.parts(), BATCH, case.seeds())
    federation = engine.start(
        work(case.model, algorithm, local_steps)._replace(**(hooks or {})),
        case.params() if params is None else params,
        case.samples(),
        len(case.held),
        local_steps,
        mapping,
        keep_clients,
        seed,
        rest,
    )
    return federation.state, federation.run, sampler


def simulate(*arguments, calls=(ROUNDS,), **options):
    state, run, sampler = start(*arguments, **options)
    losses = []
    for count in calls:
        state, some = run(state, sampler.draw(count, arguments[2]))
        losses.append(some)
    return outcome(state, np.concatenate(losses))


def outcome(state, losses):
    return Outcome(np.asarray(ravel_pytree(state.params)[0]), losses, state.clients, state)


@cache
def _task(case, float_type):
    images, labels = case.arrays()
    forward = models.MODELS[case.model]().apply
    images = jnp.asarray(images / 255, float_type)
    return reference.Task(forward, case.params(), images, jnp.asarray(labels), ETA)


@cache
def _expected(case, algorithm, local_steps, float_type):
    task = _task(case, float_type)
    plain = reference.ALGORITHMS[algorithm]
    clients = plain_clients(task, case, plain)
    task.losses.clear()
    w = plain.run(task.w, clients, ROUNDS, local_steps)
    assert np.abs(w - task.w).max() > 1e-3, "the reference stands still and so proves nothing"
    optimizers = [client.optimizer for client in clients]
    return Outcome(np.asarray(w), np.reshape(task.losses, (ROUNDS, -1)).mean(1), optimizers)


def plain_clients(task, case, plain):
    return [
        reference.Client(task, plain.optimizer(), held, BATCH, seed)
        for held, seed in zip(case.parts(), case.seeds(), strict=True)
    ]


def expected(case, algorithm, local_steps):
    return _expected(case, algorithm, local_steps, jnp.zeros(()).dtype)


def check(case, algorithm, local_steps, mapping, keep_clients=False, **tolerances):
    got = simulate(case, algorithm, local_steps, mapping=mapping, keep_clients=keep_clients)
    assert_close(got, expected(case, algorithm, local_steps), **tolerances)


def assert_close(got, want, rtol=1e-9, atol=1e-10):
    assert got.w.dtype == want.w.dtype
    np.testing.assert_allclose(got.w, want.w, rtol, atol)
    np.testing.assert_allclose(got.losses, want.losses, rtol, atol)


def assert_same_bits(one, other):
    for leaf, another in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert np.array_equal(leaf, another)


@pytest.fixture
def small_groups(monkeypatch):
    """Make a few clients several groups: compiling ten of them takes long."""
    monkeypatch.setattr(mapping_module, "GROUP", 2)


@pytest.mark.usefixtures("double_precision", "small_groups")
class TestAgreesWithTheReference:
    @each_mapping
    @pytest.mark.parametrize("local_steps", [1, 3])
    @pytest.mark.parametrize("algorithm", sorted(reference.ALGORITHMS))
    def test_every_algorithm(self, algorithm, local_steps, mapping):
        check(Case("softmax", held=(9, 2, 4, 1)), algorithm, local_steps, mapping)

    @each_mapping
    @each_work
    def test_dense_model(self, local_steps, keep_clients, mapping):
        check(Case("lenet"), "secadam", local_steps, mapping, keep_clients)

    @pytest.mark.parametrize(
        ("algorithm", "local_steps", "mapping"),
        [
            ("fedavg", 1, LOOP),
            ("secadam", 1, VMAP),
            ("secadam", 3, LOOP),
        ],
    )
    def test_convolutional_model(self, algorithm, local_steps, mapping):
        check(Case("cnn1", held=(9, 2)), algorithm, local_steps, mapping)

    def test_convolutional_model_with_layer_norm(self):
        case = Case("cnn2", held=(5, 9), shape=(4, 4, 3))
        check(case, "secadam", 1, VMAP)

    @each_mapping
    def test_a_single_client(self, mapping):
        check(Case("softmax", held=(5,)), "secadam", 1, mapping)

    def test_groups_of_the_engines_own_size(self, monkeypatch):
        monkeypatch.undo()
        assert len(GROUPS) > 2 * mapping_module.GROUP
        assert len(GROUPS) % mapping_module.GROUP
        check(Case("softmax", held=GROUPS), "secadam", 1, LOOP)


def test_agrees_with_the_reference_in_single_precision(small_groups):
    case = Case("lenet", held=(9, 3, 4))  # a third is not exact in float32
    # A GPU's default would be to multiply in fewer bits.
    with jax.default_matmul_precision("highest"):
        check(case, "secadam", 1, default_mapping(), rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("double_precision", "small_groups")
@each_mapping
@pytest.mark.parametrize("local_steps", [1, 3])
def test_kept_clients_are_each_clients_own(local_steps, mapping):
    case = Case("lenet")
    got = simulate(case, "secadam", local_steps, mapping=mapping, keep_clients=True)
    adam = engine.client_states(got.state, len(case.held))[0]
    for i, theirs in enumerate(expected(case, "secadam", local_steps).clients):
        count, m, v = (
            ravel_pytree(jax.tree.map(lambda leaf, i=i: leaf[i], field))[0]
            for field in (adam.count, adam.mu, adam.nu)
        )
        assert count == theirs.t == ROUNDS * local_steps
        np.testing.assert_allclose(m, theirs.m, 1e-9, 1e-12)
        np.testing.assert_allclose(v, theirs.v, 1e-9, 1e-12)


def some_of(schedule, chosen):
    """The schedule with those clients alone who are chosen in each round, [round][cohort]."""
    chosen = np.asarray(chosen, np.int32)
    indices = np.take_along_axis(schedule.indices, chosen[:, :, None, None], axis=1)
    return schedule._replace(clients=chosen, indices=indices)


@pytest.mark.usefixtures("double_precision", "small_groups")
class TestPartialParticipation:
    case, chosen = Case("softmax"), [[0, 2, 4], [1, 2, 3], [0, 1, 4]]

    @each_mapping
    @pytest.mark.parametrize("local_steps", [1, 3])
    @pytest.mark.parametrize("algorithm", ["secadam", "adam"])
    def test_a_cohort_trains_as_a_federation_of_its_own(self, algorithm, local_steps, mapping):
        """Nobody else exists in a round; states go on where they were left."""
        task, plain = _task(self.case, jnp.zeros(()).dtype), reference.ALGORITHMS[algorithm]
        clients, w = plain_clients(task, self.case, plain), task.w
        task.losses.clear()
        for cohort in self.chosen:
            w = plain.run(w, [clients[i] for i in cohort], 1, local_steps)
            for resting in set(range(5)) - set(cohort):  # their minibatches are drawn all the same
                [clients[resting].draw() for _ in range(local_steps)]
        state, run, sampler = start(self.case, algorithm, local_steps, mapping, rest=True)
        state, losses = run(state, some_of(sampler.draw(3, local_steps), self.chosen))
        np.testing.assert_allclose(ravel_pytree(state.params)[0], w, 1e-9, 1e-10)
        np.testing.assert_allclose(losses, np.reshape(task.losses, (3, -1)).mean(1), 1e-9)
        counts = engine.client_states(state, 5)[0].count
        assert counts.tolist() == [local_steps * sum(i in c for c in self.chosen) for i in range(5)]

    @each_mapping
    def test_the_server_is_told_the_share_and_clients_what_it_broadcasts(self, mapping):
        state, run, sampler = start(self.case, "scaffold", 2, mapping, rest=True)
        state, _ = run(state, some_of(sampler.draw(3, 2), self.chosen))
        own = engine.client_states(state, 5)
        for control, theirs in zip(*map(jax.tree.leaves, (state.server, own)), strict=True):
            assert np.abs(control).max() > 1e-3
            np.testing.assert_allclose(control, theirs.mean(0), 1e-9, 1e-12)

    def test_clients_stay_away_only_where_they_may(self):
        state, run, sampler = start(self.case, "secadam", 1)
        with pytest.raises(ValueError, match="need rest"):
            run(state, some_of(sampler.draw(3, 1), self.chosen))


def brighten(images, key):
    return images + jax.random.uniform(key, (len(images), 1, 1, 1))


def blur(message, key):
    flat, unravel = ravel_pytree(message)
    return unravel(flat + jax.random.uniform(key, flat.shape))


@pytest.mark.usefixtures("double_precision", "small_groups")
@pytest.mark.parametrize(
    ("local_steps", "hooks"),
    [(1, {"augment": brighten, "guard": blur}), (3, {"augment": brighten, "privatise": blur})],
    ids=["one step", "three steps"],
)
def test_what_clients_draw_themselves_does_not_depend_on_the_mapping(local_steps, hooks):
    def run(mapping, seed=0, keep_clients=True):
        case, calls = Case("softmax", held=(9, 2, 4)), (3,)
        settings = {"keep_clients": keep_clients, "hooks": hooks, "seed": seed}
        return simulate(case, "fedavg", local_steps, mapping, calls=calls, **settings)

    usual = run(LOOP)
    assert_close(run(VMAP), usual)
    for mapping in MAPPINGS:
        assert_close(run(mapping, keep_clients=False), usual)
    assert np.abs(usual.w - run(LOOP, seed=1).w).max() > 1e-3


def test_every_step_message_client_and_round_draws_with_a_key_of_its_own():
    key, keys = jax.random.PRNGKey(0), []
    for _ in range(3):
        keys += [step_key(key, client, step) for client in range(4) for step in range(3)]
        key = next_key(key)
    assert len(np.unique(keys, axis=0)) == len(keys)


@pytest.mark.usefixtures("small_groups")
@each_mapping
def test_a_message_draws_with_the_key_after_the_last_steps(mapping):
    """Images are replaced by one number each step, which moves a bias; messages add another."""

    def losses(params, images, labels):
        return images.mean((1, 2, 3)) * params["params"]["classifier"]["bias"][0]

    hooks = {
        "losses": losses,
        "harden": pgd.none(),
        "augment": lambda images, key: jnp.full_like(images, jax.random.uniform(key)),
        "privatise": lambda message, key: optax.tree.add_scale(
            message, jax.random.uniform(key), optax.tree.ones_like(message)
        ),
    }
    state, run, sampler = start(Case("softmax", held=(9, 2)), "fedavg", 2, mapping, hooks=hooks)
    key, before = np.array(state.key), np.array(state.params["params"]["classifier"]["bias"])
    state, _ = run(state, sampler.draw(1, 2))
    draws = [
        [float(jax.random.uniform(step_key(key, client, step))) for step in range(3)]
        for client in range(2)
    ]
    expected = before[0] - np.mean([0.1 * (one + two) + last for one, two, last in draws])
    got = state.params["params"]["classifier"]["bias"][0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_images_are_augmented_then_hardened_then_learned_from():
    """A loss that is the sum of what it sees."""
    todo = Work(
        algorithms.fedavg(client_rate=1.0),
        losses=lambda params, images, labels: images.sum((1, 2, 3)) * params,
        harden=lambda params, images, labels: images + 1,
        augment=lambda images, key: 2 * images,
    )
    images, weights = jnp.array([3.0, 5.0]).reshape(2, 1, 1, 1), jnp.array([0.25, 0.5])
    w = jnp.asarray(1.0)
    local, _, loss = todo.local_step(
        *(Broadcast(w), w, todo.algorithm.init_client(w)),
        *(images, jnp.zeros(2, int), weights, jax.random.key(0)),
    )
    assert float(loss) == 7 / 4 + 11 / 2
    assert float(local) == 1 - (7 / 4 + 11 / 2)


@pytest.mark.usefixtures("small_groups")
@each_mapping
@pytest.mark.parametrize("local_steps", [1, 3])
class TestRuns:
    """What does not take a reference."""

    # The one with the most state.
    algorithm = "secadam_fedadam"

    def test_same_seeds_give_identical_bits(self, local_steps, mapping):
        first, again = (
            simulate(Case("softmax"), self.algorithm, local_steps, mapping) for _ in range(2)
        )
        assert_same_bits(first, again)

    def test_rounds_may_be_split_over_calls(self, local_steps, mapping):
        whole, split = (
            simulate(Case("softmax"), self.algorithm, local_steps, mapping, calls=calls)
            for calls in ((ROUNDS,), (7, ROUNDS - 7))
        )
        assert_same_bits(whole, split)

    def test_filling_does_not_count(self, local_steps, mapping):
        def run(filling):
            state, run, sampler = start(Case("softmax"), self.algorithm, local_steps, mapping)
            drawn = sampler.draw(7, local_steps)
            empty = np.broadcast_to(drawn.weights[:, None] == 0, drawn.indices.shape)
            filled = np.where(empty, filling, drawn.indices).astype(np.int32)
            return outcome(*run(state, drawn._replace(indices=filled)))

        assert_same_bits(run(0), run(20))

    def test_the_callers_params_are_not_given_up(self, local_steps, mapping):
        # Not looked at before: JAX never gives up what NumPy has a view of.
        params = Case("softmax").params()
        simulate(Case("softmax"), self.algorithm, local_steps, mapping, params=params, calls=(7,))
        assert_same_bits(params, Case("softmax").params())


@each_mapping
def test_runs_of_the_same_work_do_not_mix(mapping, small_groups):
    # What is compiled for one is used again for the others.
    def run(case):
        return simulate(case, "secadam_fedadam", 1, mapping, calls=(7,))

    first = run(Case("softmax"))
    other = run(Case("softmax", held=RAGGED[::-1]))
    assert not np.array_equal(first.w, other.w)
    run(Case("softmax", held=(3, 8)))
    assert_same_bits(run(Case("softmax")), first)


@pytest.mark.parametrize("mapping", ["pmap", "scan"])
def test_an_unknown_mapping_is_refused(mapping):
    with pytest.raises(ValueError, match="unknown mapping"):
        start(Case("softmax"), "fedavg", 1, mapping)


@pytest.mark.parametrize("shape", [(0, 5, 1, 4), (2, 5, 3, 4), (2, 6, 1, 4), (2, 0, 1, 4)])
def test_minibatches_for_another_federation_are_refused(shape):
    state, run, _ = start(Case("softmax"), "fedavg", 1)
    clients = np.tile(np.arange(shape[1]), (shape[0], 1))
    weights = np.ones((5, BATCH), np.float32)
    schedule = Schedule(clients, np.zeros(shape, np.int32), weights)
    with pytest.raises(ValueError, match="5 clients and 1 local steps"):
        run(state, schedule)


def test_a_mapping_is_chosen_where_none_is_given(small_groups):
    assert default_mapping() in MAPPINGS
    got = simulate(Case("softmax"), "secadam", 1, calls=(7,))
    want = simulate(Case("softmax"), "secadam", 1, default_mapping(), calls=(7,))
    assert_same_bits(got, want)
