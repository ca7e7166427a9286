"""The compiled engine does what the plain loops of `reference` say, however it is mapped."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.flatten_util import ravel_pytree

from fl import hardening, models, simulation, training
from fl.algorithms import ALGORITHMS
from fl.rounds import Work
from fl.sampling import MinibatchSampler
from fl.training import Samples

ROUNDS = 20
BATCH = 4
ETA = 0.1  # far larger than the experiments', so that hardening shows
# Samples of each client: more than a batch, as many, fewer. The engine takes float32 weights, in
# which 1/4, 1/2 and 1 are exact, so that float64 runs are not blurred by them.
RAGGED = (9, 2, 4, 17, 1)
# More than one group of the engine's own size, and a remainder.
GROUPS = RAGGED * 4 + (3 * BATCH, 1, 2)
MAPPING_IDS = [f"{mapping.clients}-{mapping.rounds}" for mapping in simulation.MAPPINGS]
LOOP, *VMAPPED = simulation.MAPPINGS

each_mapping = pytest.mark.parametrize("mapping", simulation.MAPPINGS, ids=MAPPING_IDS)
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

    def samples(self):
        rng = np.random.default_rng(len(self.held))
        images = rng.integers(0, 256, (sum(self.held), *self.shape), np.uint8)
        return images, rng.integers(0, 10, sum(self.held), np.int32)

    def parts(self):
        order = np.random.default_rng(1).permutation(sum(self.held))
        return np.split(order, np.cumsum(self.held)[:-1])

    def seeds(self):
        return range(500, 500 + len(self.held))

    def params(self):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), _init(self.model, self.shape))


@cache
def _init(model, shape):
    init = jax.jit(models.MODELS[model]().init)
    return jax.device_get(init(jax.random.key(2), jnp.zeros((1, *shape), "float32")))


class Outcome(NamedTuple):
    params: np.ndarray  # [parameters]
    losses: np.ndarray  # [round]
    clients: list  # [client]


@cache  # runs of the same work share what is compiled
def work(model, algorithm, local_steps):
    losses = training.sample_losses(models.MODELS[model]())
    options = {"local_steps": local_steps} if algorithm == "secadam_fedadam" else {}
    return Work(ALGORITHMS[algorithm](**options), losses, hardening.pgd(losses, ETA))


def start(case, algorithm, local_steps, mapping=None, keep_clients=False, params=None):
    images, labels = case.samples()
    sampler = MinibatchSampler(case.parts(), BATCH, case.seeds())
    federation = simulation.start(
        work(case.model, algorithm, local_steps),
        case.params() if params is None else params,
        Samples(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(255.0)),
        sampler.weights,
        local_steps,
        mapping,
        keep_clients,
    )
    return federation.state, federation.run, sampler


def engine(*arguments, calls=(ROUNDS,), **options):
    state, run, sampler = start(*arguments, **options)
    losses = []
    for rounds in calls:
        state, some = run(state, sampler.draw(rounds, arguments[2]).indices)
        losses.append(np.asarray(some))
    params = np.asarray(ravel_pytree(state.params)[0])
    return Outcome(params, np.concatenate(losses), state.clients)


@cache
def _task(case, float_type):
    images, labels = case.samples()
    forward = models.MODELS[case.model]().apply
    images = jnp.asarray(images / 255, float_type)
    return reference.Task(forward, case.params(), images, jnp.asarray(labels), ETA)


@cache
def _expected(case, algorithm, local_steps, float_type):
    task = _task(case, float_type)
    minibatches = reference.draw_minibatches(
        case.parts(), BATCH, case.seeds(), ROUNDS, local_steps
    )
    task.losses.clear()
    w, clients = reference.ALGORITHMS[algorithm](task, minibatches, local_steps)
    assert np.abs(w - task.w).max() > 1e-3, "the reference stands still and so proves nothing"
    return Outcome(np.asarray(w), np.reshape(task.losses, (ROUNDS, -1)).mean(1), clients)


def expected(case, algorithm, local_steps):
    return _expected(case, algorithm, local_steps, jnp.zeros(()).dtype)


def check(case, algorithm, local_steps, mapping, keep_clients, rtol=1e-9, atol=1e-10):
    got = engine(case, algorithm, local_steps, mapping=mapping, keep_clients=keep_clients)
    want = expected(case, algorithm, local_steps)
    assert got.params.dtype == want.params.dtype
    np.testing.assert_allclose(got.params, want.params, rtol, atol)
    np.testing.assert_allclose(got.losses, want.losses, rtol, atol)


@pytest.fixture
def small_groups(monkeypatch):
    """Make a few clients several groups: compiling ten of them takes long."""
    monkeypatch.setattr(simulation, "GROUP", 2)


@pytest.mark.usefixtures("double_precision", "small_groups")
class TestAgreesWithTheReference:
    @each_mapping
    @each_work
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_every_algorithm(self, algorithm, local_steps, keep_clients, mapping):
        check(Case("softmax"), algorithm, local_steps, mapping, keep_clients)

    @each_mapping
    @pytest.mark.parametrize("local_steps", [1, 3])
    @pytest.mark.parametrize("algorithm", ["fedavg", "secadam"])
    def test_dense_model(self, algorithm, local_steps, mapping):
        check(Case("lenet"), algorithm, local_steps, mapping, keep_clients=False)

    @pytest.mark.parametrize(
        ("algorithm", "local_steps", "keep_clients", "mapping"),
        [
            ("fedavg", 1, False, LOOP),
            ("secadam", 1, False, LOOP),
            ("secadam", 1, True, LOOP),
            ("secadam", 3, False, LOOP),
            *(("secadam", 1, False, mapping) for mapping in VMAPPED),
            ("secadam", 3, False, VMAPPED[-1]),
        ],
    )
    def test_convolutional_model(self, algorithm, local_steps, keep_clients, mapping, monkeypatch):
        # Groups of 3 and 1 clients, whose samples go through the convolutions two clients at a
        # time at most.
        monkeypatch.setattr(simulation, "GROUP", 3)
        monkeypatch.setattr(simulation, "CONVOLUTION_COHORT", 2 * BATCH)
        case = Case("cnn1", held=(5, 2, 4, 9), shape=(4, 4, 1))
        check(case, algorithm, local_steps, mapping, keep_clients)

    @pytest.mark.parametrize("mapping", [LOOP, VMAPPED[-1]])
    def test_convolutional_model_with_layer_norm(self, mapping):
        case = Case("cnn2", held=(5, 2), shape=(4, 4, 3))
        check(case, "secadam", 1, mapping, keep_clients=False)

    @each_mapping
    @pytest.mark.parametrize("local_steps", [1, 3])
    def test_a_single_client(self, local_steps, mapping):
        check(Case("softmax", held=(5,)), "secadam", local_steps, mapping, False)


@pytest.mark.usefixtures("double_precision")
@each_mapping
@each_work
def test_agrees_with_the_reference_in_groups_of_the_engines_own_size(
    local_steps, keep_clients, mapping
):
    assert len(GROUPS) > 2 * simulation.GROUP
    assert len(GROUPS) % simulation.GROUP
    check(Case("softmax", held=GROUPS), "secadam", local_steps, mapping, keep_clients)


@each_mapping
@pytest.mark.parametrize("algorithm", ["fedavg", "secadam"])
def test_agrees_with_the_reference_in_single_precision(algorithm, mapping, small_groups):
    # A third is not exact in float32.
    case = Case("lenet", held=(9, 3, 4, 17, 1))
    # A GPU's default would be to multiply in fewer bits.
    with jax.default_matmul_precision("highest"):
        check(case, algorithm, 1, mapping, False, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("double_precision", "small_groups")
@each_mapping
@pytest.mark.parametrize("local_steps", [1, 3])
def test_kept_clients_are_each_clients_own(local_steps, mapping):
    case = Case("softmax")
    got = engine(case, "secadam", local_steps, mapping=mapping, keep_clients=True).clients
    if mapping.clients == "vmap":
        got = [jax.tree.map(lambda leaf, i=i: leaf[i], got) for i in range(len(RAGGED))]
    want = expected(case, "secadam", local_steps).clients
    for mine, theirs in zip(got, want, strict=True):
        adam = mine[0]
        assert adam.count == theirs.t == ROUNDS * local_steps
        np.testing.assert_allclose(ravel_pytree(adam.mu)[0], theirs.m, 1e-9, 1e-12)
        np.testing.assert_allclose(ravel_pytree(adam.nu)[0], theirs.v, 1e-9, 1e-12)


@each_mapping
@pytest.mark.parametrize("local_steps", [1, 3])
def test_same_seeds_give_identical_bits(local_steps, mapping, small_groups):
    first, again = (
        engine(Case("lenet"), "secadam", local_steps, mapping=mapping) for _ in range(2)
    )
    assert np.array_equal(first.params, again.params)
    assert np.array_equal(first.losses, again.losses)


@each_mapping
@each_work
def test_rounds_may_be_split_over_calls(local_steps, keep_clients, mapping, small_groups):
    def run(*calls):
        return engine(
            Case("softmax"),
            "secadam_fedadam",
            local_steps,
            mapping=mapping,
            keep_clients=keep_clients,
            calls=calls,
        )

    whole, split = run(20), run(7, 13)
    assert np.array_equal(whole.params, split.params)
    assert np.array_equal(whole.losses, split.losses)
    for one, other in zip(*map(jax.tree.leaves, (whole.clients, split.clients)), strict=True):
        assert np.array_equal(one, other)


@each_mapping
@each_work
def test_filling_does_not_count(local_steps, keep_clients, mapping, small_groups):
    def run(filling):
        state, run, sampler = start(
            Case("softmax"), "secadam", local_steps, mapping, keep_clients
        )
        indices, weights = sampler.draw(3, local_steps)
        empty = np.broadcast_to(weights[:, None] == 0, indices.shape)
        state, losses = run(state, np.where(empty, filling, indices).astype(np.int32))
        return ravel_pytree(state.params)[0], losses

    for one, other in zip(run(0), run(20), strict=True):
        assert np.array_equal(one, other)


@each_mapping
@each_work
def test_the_callers_params_are_not_given_up(local_steps, keep_clients, mapping, small_groups):
    case = Case("softmax")
    params = case.params()
    before = ravel_pytree(params)[0]
    for _ in range(2):  # and a second run starts from the same place
        engine(
            case,
            "fedadam",
            local_steps,
            mapping=mapping,
            keep_clients=keep_clients,
            params=params,
            calls=(2,),
        )
        assert np.array_equal(ravel_pytree(params)[0], before)


@pytest.mark.parametrize(
    "mapping", [("unrolled", "scan"), ("pmap", "loop"), simulation.Mapping("vmap", "while")]
)
def test_an_unknown_mapping_is_refused(mapping):
    with pytest.raises(ValueError, match="unknown mapping"):
        start(Case("softmax"), "fedavg", 1, mapping)


def test_a_mapping_is_chosen_where_none_is_given(small_groups):
    assert simulation.default_mapping() in simulation.MAPPINGS
    got = engine(Case("softmax"), "secadam", 1)
    want = engine(Case("softmax"), "secadam", 1, mapping=simulation.default_mapping())
    assert np.array_equal(got.params, want.params)


# Runs in a process of its own, since the number of devices is fixed when JAX starts.
SHARDED = """
import itertools
import jax, numpy as np
from test_simulation import LOOP, VMAPPED, Case, engine, start

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 2
# Four clients can be shared out equally, five cannot.
for held, count in (((9, 2, 4, 1), 2), ((9, 2, 4, 17, 1), 1)):
    case = Case("softmax", held=held)
    for steps, keep in ((1, False), (1, True), (3, False)):
        want = engine(case, "secadam", steps, mapping=LOOP, keep_clients=keep)
        for mapping in VMAPPED:
            options = {"mapping": mapping, "keep_clients": keep}
            got = engine(case, "secadam", steps, **options)
            np.testing.assert_allclose(got.params, want.params, 1e-9, 1e-12)
            np.testing.assert_allclose(got.losses, want.losses, 1e-9, 1e-12)
            for leaf in jax.tree.leaves(got.clients):
                assert len(leaf.sharding.device_set) == count, (leaf.sharding, mapping, keep)
                if keep or steps > 1:  # every device holds its own clients only
                    share = {shard.data.shape[0] for shard in leaf.addressable_shards}
                    assert share == {len(held) // count}, (share, mapping)
            state, run, sampler = start(case, "secadam", steps, **options)
            state, _ = run(state, sampler.draw(2, steps).indices)
            assert all(
                len(leaf.sharding.device_set) == count for leaf in jax.tree.leaves(state.params)
            )
print("agreed")
"""


def test_clients_are_spread_over_two_devices():
    here = Path(__file__).parent
    path = [str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHARDED],
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "PYTHONPATH": os.pathsep.join(path),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("agreed\n")
