"""The attacks do what their papers say, find what theory says must leak, and see nothing else."""

import ast
import inspect
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fl.data import datasets
from fl.simulation import algorithms
from fl.simulation.models import CLASSES, MODELS
from fl.simulation.training import sample_losses

FOLDER = Path(__file__).parents[1] / "inversion"
sys.path.insert(0, str(FOLDER))  # the experiments are folders of scripts, not packages

import attacks  # noqa: E402
import matching  # noqa: E402
import optimise  # noqa: E402
from attacks import ATTACKS, reconstruct  # noqa: E402
from metrics import psnr  # noqa: E402
from observed import Observed, PublicFacts, infer_labels  # noqa: E402
from optimise import Mapping, Problem, solve  # noqa: E402

KEY = jax.random.key(3)
SMALL = (6, 5, 2)  # height, width, channels, all different


@cache
def digits():
    data = datasets.load("digits")
    return data.train_images.astype(np.float32) / data.scale, data.train_labels


def minibatches(clients, batch, seed=0):
    """Digits of `batch` different classes for each client."""
    images, labels = digits()
    rng = np.random.default_rng(seed)
    classes = np.stack([rng.permutation(CLASSES)[:batch] for _ in range(clients)])
    chosen = np.vectorize(lambda c: rng.choice(np.flatnonzero(labels == c)))(classes)
    return images[chosen], labels[chosen]


@cache
def untrained():
    return jax.jit(MODELS["lenet"]().init)(KEY, jnp.zeros((1, 16, 16, 1)))


def observe(algorithm, images, labels):
    """What the server sees of the first step of clients that train an untrained lenet."""
    model, params = MODELS["lenet"](), untrained()
    rules = algorithms.ALGORITHMS[algorithm]()
    losses = sample_losses(model)

    def client(x, y):
        gradient = jax.grad(lambda p: losses(p, x, y).mean())(params)
        optimizer = rules.client_optimizer
        update, state = optimizer.update(gradient, optimizer.init(params), params)
        message = rules.message(params, optax.apply_updates(params, update), state)
        return rules.pseudo_gradient(message)

    facts = PublicFacts(model, images.shape[2:], images.shape[1], algorithm, rules.client_rate)
    return Observed(jax.jit(jax.vmap(client))(images, labels), params, facts)


def noise(model, clients=3, batch=2, shape=SMALL):
    """An observation and parameters of random numbers, in the float type that JAX is in."""
    network, rng = MODELS[model](), np.random.default_rng(0)
    leaves = jax.eval_shape(network.init, KEY, jnp.zeros((batch, *shape)))

    def random(*leading):
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.1, (*leading, *leaf.shape)), float), leaves
        )

    return Observed(random(clients), random(), PublicFacts(network, shape, batch, "fedavg", 0.1))


def mean_psnr(found, true):
    return float(np.minimum(psnr(found, true), 100).mean())


def first(observed):
    return jax.tree.map(lambda leaf: leaf[0], observed.observations)


# What theory says must leak, does.


@pytest.mark.parametrize("algorithm", ["fedavg", "adam", "secadam"])
def test_labels_of_a_batch_without_repeats_are_inferred(algorithm):
    images, labels = minibatches(100, 8)
    seen = observe(algorithm, images, labels)
    inferred = jax.vmap(lambda one: infer_labels(one, 8))(seen.observations)
    right = (inferred == np.sort(labels, axis=1)).all(axis=1).mean()
    assert right >= 0.95 if algorithm == "fedavg" else right >= 0.9


def test_labels_are_the_classes_of_the_smallest_minima():
    kernel = np.random.default_rng(0).normal(size=(7, CLASSES))
    minima = sorted((kernel[:, c].min(), c) for c in range(CLASSES))
    expected = sorted(c for _, c in minima[:4])
    seen = {"params": {"classifier": {"kernel": jnp.asarray(kernel)}}}
    assert infer_labels(seen, 4).tolist() == expected
    assert infer_labels(seen, CLASSES).tolist() == list(range(CLASSES))
    counts = np.bincount(infer_labels(seen, CLASSES + 4), minlength=CLASSES)
    assert np.flatnonzero(counts == 2).tolist() == expected
    assert counts.min() == 1


def test_analytic_finds_the_image_of_an_update_and_not_of_secadams_ratio():
    images, labels = minibatches(20, 1)
    found = {
        name: reconstruct(ATTACKS["analytic"], observe(name, images, labels), KEY)
        for name in ("fedavg", "secadam")
    }
    assert float(psnr(found["fedavg"].images, images).min()) > 60
    assert mean_psnr(found["secadam"].images, images) < 15
    # What is left is where the image is not zero.
    np.testing.assert_allclose(found["secadam"].images, images > 0, atol=1e-3)


def test_analytic_finds_most_images_of_a_batch():
    images, labels = minibatches(20, 8)
    found = reconstruct(ATTACKS["analytic"], observe("fedavg", images, labels), KEY)
    best = psnr(found.images[:, None], images[:, :, None]).max(axis=2)
    assert (best > 60).mean() > 0.5


@pytest.mark.parametrize("batch", [1, 2])
def test_analytic_survives_an_observation_of_nothing(batch):
    seen = noise("softmax", batch=batch)
    nothing = jax.tree.map(jnp.zeros_like, first(seen))
    images = ATTACKS["analytic"](seen.facts).init(KEY, nothing, seen.params, None)
    np.testing.assert_array_equal(images, jnp.zeros((batch, *SMALL)))


@pytest.mark.parametrize("model", ["cnn1", "cnn2"])
def test_analytic_refuses_a_convolutional_first_layer(model):
    facts = PublicFacts(MODELS[model](), (16, 16, 1), 1, "fedavg", 0.1)
    with pytest.raises(ValueError, match=r"first layer is dense, which that of CNN\d is not"):
        ATTACKS["analytic"](facts)


@pytest.mark.parametrize("name", ["cosine", "idlg", "cpl"])
def test_gradient_attacks_find_the_image_of_an_update(name):
    images, labels = minibatches(2, 1)
    found = reconstruct(ATTACKS[name], observe("fedavg", images, labels), KEY, restarts=2)
    assert mean_psnr(found.images, images) > 20


# Losses, by formulas written out.


def test_total_variation():
    images = np.random.default_rng(0).random((2, *SMALL))
    rows = columns = 0.0
    for b, i, j, c in np.ndindex(images.shape):
        if i:
            rows += abs(images[b, i, j, c] - images[b, i - 1, j, c])
        if j:
            columns += abs(images[b, i, j, c] - images[b, i, j - 1, c])
    images = jnp.asarray(images)
    assert float(attacks.total_variation(images)) == pytest.approx(rows + columns, rel=1e-6)
    height, width, channels = SMALL
    mean = rows / (2 * (height - 1) * width * channels)
    mean += columns / (2 * height * (width - 1) * channels)
    assert float(attacks.total_variation(images, jnp.mean)) == pytest.approx(mean, rel=1e-6)


def test_representation_loss():
    seen = noise("lenet")
    images = np.random.default_rng(1).random((2, *SMALL)).astype(np.float32)
    labels = np.array([3, 8])
    layers = jax.tree.map(np.asarray, seen.params)["params"]
    x = images.reshape(2, -1)
    for name in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    kernel = np.asarray(first(seen)["params"]["classifier"]["kernel"])
    closeness = [
        abs(r @ kernel[:, c]) / np.linalg.norm(r) / np.linalg.norm(kernel[:, c])
        for r, c in zip(x, labels, strict=True)
    ]
    variation = sum(np.abs(np.diff(images, axis=axis)).sum() for axis in (1, 2))
    expected = 1 - np.mean(closeness) + 5e-4 * variation
    loss = attacks.representation(seen.facts).loss(images, first(seen), seen.params, labels)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_representation_loss_has_a_derivative_where_nothing_is_represented():
    seen = noise("lenet")
    dead = jax.tree.map(jnp.zeros_like, seen.params)
    loss = attacks.representation(seen.facts).loss
    gradient = jax.grad(loss)(jnp.zeros((2, *SMALL)), first(seen), dead, jnp.array([0, 1]))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("lenet", "idlg"),
        ("lenet", "cosine"),
        ("lenet", "cpl"),
        ("softmax", "idlg"),
        ("cnn2", "idlg"),
    ],
)
def test_gradient_losses(model, name, double_precision):
    seen = noise(model)
    images = jax.random.uniform(jax.random.key(5), (2, *SMALL))
    labels = jnp.array([3, 8])
    network = MODELS[model]()

    def mean_loss(params):
        log = jax.nn.log_softmax(network.apply(params, images))
        return -(log[0, 3] + log[1, 8]) / 2

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    g, o = flat(jax.jit(jax.grad(mean_loss))(seen.params)), flat(first(seen))
    errors = jax.nn.softmax(network.apply(seen.params, images)) - np.eye(CLASSES)[[3, 8]]
    expected = {
        "idlg": np.sum((g - o / 0.1) ** 2),
        "cpl": np.sum((g - o / 0.1) ** 2) + 0.01 * np.sum(np.square(errors)),
        "cosine": 1
        - g @ o / np.linalg.norm(g) / np.linalg.norm(o)
        + 1e-4 * sum(np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2)),
    }
    loss = jax.jit(ATTACKS[name](seen.facts).loss)(images, first(seen), seen.params, labels)
    assert float(loss) == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "as_published", "factor"),
    [("fedavg", False, 0.1), ("fedavg", True, 1), ("adam", False, 0.001), ("secadam", False, 1)],
)
def test_idlg_undoes_the_learning_rate(algorithm, as_published, factor):
    seen = noise("softmax")
    images, labels = jnp.full((2, *SMALL), 0.5), jnp.array([1, 2])
    losses = sample_losses(MODELS["softmax"]())
    gradient = jax.grad(lambda p: losses(p, images, labels).mean())(seen.params)
    rate = algorithms.ALGORITHMS[algorithm]().client_rate
    facts = seen.facts._replace(algorithm=algorithm, client_rate=rate)
    sent = jax.tree.map(lambda g: factor * g, gradient)
    loss = attacks.idlg(facts, as_published).loss(images, sent, seen.params, labels)
    assert float(loss) == pytest.approx(0, abs=1e-5)


def test_dense_models_are_matched_without_a_gradient(monkeypatch):
    monkeypatch.setattr(matching, "match_gradient", None)  # would fail if it were called
    assert matching.matcher(noise("lenet").facts)
    with pytest.raises(TypeError):
        matching.matcher(noise("cnn1").facts)


def test_cosine_distance_of_nothing_is_one_and_has_a_derivative():
    def distance(scale):
        return matching.Match(scale**2, scale, jnp.ones(())).cosine_distance()

    value, slope = jax.value_and_grad(distance)(0.0)
    assert value == 1
    assert np.isfinite(slope)
    assert float(distance(1e-12)) == pytest.approx(0, abs=1e-6)


def test_cpl_starts_from_a_repeated_patch():
    facts = noise("lenet", shape=(7, 6, 1)).facts
    images = attacks.cpl(facts).init(KEY)
    assert images.shape == (2, 7, 6, 1)
    np.testing.assert_array_equal(images[:, :3], images[:, 4:])
    np.testing.assert_array_equal(images[:, :, :3], images[:, :, 3:])
    assert len(np.unique(images)) == 2 * 4 * 3


# The runner.


def one_after_another(problem, seen, labels, keys):
    """An attack as pseudocode has it, on one client after the other."""
    found, derivative = [], jax.jit(jax.grad(problem.loss))
    for i, key in enumerate(keys):
        observation = jax.tree.map(lambda leaf, i=i: leaf[i], seen.observations)
        z = problem.init(key, observation, seen.params, labels[i])
        state = problem.optimizer.init(z)
        for _ in range(problem.steps):
            z = jnp.clip(z, 0, 1)
            gradient = derivative(z, observation, seen.params, labels[i])
            update, state = problem.optimizer.update(gradient, state, z)
            z = z + update
        found.append(jnp.clip(z, 0, 1))
    return jnp.stack(found)


@pytest.mark.parametrize(
    ("model", "name"),
    [("lenet", "representation"), ("lenet", "cosine"), ("lenet", "analytic"), ("cnn2", "idlg")],
)
def test_clients_are_attacked_as_one_after_another(model, name, double_precision):
    seen = noise(model)
    problem = ATTACKS[name](seen.facts)
    problem = problem._replace(steps=min(problem.steps, 3))
    labels, keys = jnp.array([[0, 1], [2, 3], [4, 5]]), jax.random.split(KEY, 3)
    expected = one_after_another(problem, seen, labels, keys)
    found = solve(problem, seen.observations, seen.params, labels, keys[:, None])
    np.testing.assert_allclose(found.images, expected, atol=1e-9)


@pytest.mark.parametrize("mapping", [Mapping(1, True), Mapping(2, True), Mapping(2, False)])
def test_neither_chunks_nor_mappings_change_results(mapping, double_precision):
    seen = noise("softmax", clients=5)
    problem = attacks.idlg(seen.facts)._replace(steps=3)
    labels, keys = jnp.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]), jax.random.split(KEY, 5)
    expected = one_after_another(problem, seen, labels, keys)
    found = solve(problem, seen.observations, seen.params, labels, keys[:, None], mapping)
    np.testing.assert_allclose(found.images, expected, atol=1e-9)


def test_steps_that_are_no_multiple_of_a_segment_are_all_taken():
    def away(z, *_):
        return -z.sum()

    steps = optimise.SEGMENT + 3
    problem = Problem(lambda *_: jnp.zeros((1, 2, 2, 1)), away, optax.sgd(1e-3), steps)
    params = {"kernel": jnp.zeros((2, 2))}
    seen = {"kernel": jnp.zeros((1, 2, 2))}
    for mapping in (Mapping(1, True), Mapping(1, False)):
        found = solve(problem, seen, params, jnp.zeros((1, 1), int), KEY[None, None], mapping)
        np.testing.assert_allclose(found.images, steps * 1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["representation", "analytic"])
def test_reconstructions_are_images(name):
    seen = noise("lenet")
    build = lambda facts: ATTACKS[name](facts)._replace(steps=2)  # noqa: E731
    found = reconstruct(build, seen, KEY, restarts=2)
    assert found.images.shape == (3, 2, *SMALL)
    assert found.labels.shape == (3, 2)
    assert found.losses.shape == (3,)
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1


def test_every_step_sees_images_within_bounds():
    """The start and each update are out of bounds; the loss would be NaN there."""
    problem = Problem(
        init=lambda *_: jnp.full((1, 2, 2, 1), 5.0),
        loss=lambda z, *_: jnp.where((z >= 0) & (z <= 1), -3 * z, jnp.nan).sum(),
        optimizer=optax.sgd(1.0),
        steps=3,
    )
    seen = {"kernel": jnp.zeros((1, 2, 2))}
    params = {"kernel": jnp.zeros((2, 2))}
    found = solve(problem, seen, params, jnp.zeros((1, 1), int), KEY[None, None])
    np.testing.assert_array_equal(found.images, 1)
    np.testing.assert_array_equal(found.losses, [-12])


def test_of_the_restarts_that_of_the_smallest_loss_is_kept():
    seen = noise("lenet")
    problem = attacks.representation(seen.facts)._replace(steps=5)
    labels, keys = jnp.array([[0, 1], [2, 3], [4, 5]]), jax.random.split(KEY, (3, 4))
    together = solve(problem, seen.observations, seen.params, labels, keys)
    alone = [
        solve(problem, seen.observations, seen.params, labels, keys[:, [restart]])
        for restart in range(4)
    ]
    losses = np.stack([each.losses for each in alone])
    np.testing.assert_allclose(together.losses, losses.min(axis=0), rtol=1e-5)
    assert len(set(losses.argmin(axis=0))) > 1
    for client, best in enumerate(losses.argmin(axis=0)):
        np.testing.assert_allclose(together.images[client], alone[best].images[client], atol=1e-4)


def test_a_restart_that_failed_is_not_kept_unless_all_did():
    problem = Problem(
        init=lambda key, *_: jax.random.uniform(key, (1, 1, 1, 1)),
        loss=lambda z, observation, *_: jnp.where(z > observation, jnp.nan, z).sum(),
        optimizer=optax.identity(),
        steps=0,
    )
    allowed = jnp.array([0.5, 0.0])
    keys = jax.random.split(KEY, (2, 20))
    found = solve(problem, allowed, jnp.zeros(()), jnp.zeros((2, 1), int), keys)
    assert 0 < float(found.losses[0]) < 0.5
    assert np.isnan(found.losses[1])
    assert float(found.images[1].squeeze()) in np.asarray(
        [float(jax.random.uniform(key, (1, 1, 1, 1)).squeeze()) for key in keys[1]]
    )


def test_the_default_mapping_keeps_clear_of_slow_convolutions(monkeypatch):
    def default(model, attack, clients=4):
        seen = noise(model)
        problem = ATTACKS[attack](seen.facts)
        labels = jnp.zeros((3, 2), int)
        return optimise.default_mapping(
            problem, seen.observations, seen.params, labels, jobs=clients
        )

    assert default("lenet", "idlg") == Mapping(4, vmapped=True)
    assert not default("cnn1", "idlg").vmapped
    assert not default("cnn1", "representation").vmapped
    assert default("lenet", "idlg", 10**6).chunk < 10**6
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(optimise, "_free_bytes", lambda: 10e6)
    mapping = default("cnn1", "idlg", 10**6)
    assert mapping.vmapped
    assert 1 <= mapping.chunk < 100


# What an attack may know.


def test_an_attack_is_given_only_what_the_server_sees():
    assert Observed._fields == ("observations", "params", "facts")
    assert PublicFacts._fields == ("model", "image_shape", "batch", "algorithm", "client_rate")
    given = [*inspect.signature(reconstruct).parameters]
    assert given == ["attack", "observed", "key", "restarts", "mapping", "bar_label"]
    facts = noise("lenet").facts
    for build in ATTACKS.values():
        problem = build(facts)
        for function, first_argument in ((problem.loss, "images"), (problem.init, "key")):
            arguments = [*inspect.signature(function).parameters]
            allowed = [first_argument, "observation", "params", "labels"]
            assert arguments in (allowed, [first_argument, "_"])


def test_the_attacks_modules_cannot_reach_the_data():
    allowed = {"fl.simulation.hardware", "fl.progress", "fl.simulation.training"}
    allowed |= {"analytic", "attacks", "matching", "observed", "optimise"}
    for name in ("analytic", "attacks", "matching", "observed", "optimise"):
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        imported = {
            alias
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [name.name for name in node.names]
            )
        }
        own = {m for m in imported if m.split(".")[0] == "fl" or (FOLDER / f"{m}.py").exists()}
        assert own <= allowed


def test_truth_that_is_gone_changes_nothing():
    images, labels = minibatches(2, 2)
    images, labels = images.copy(), labels.copy()
    seen = observe("fedavg", images, labels)
    # As a server would get it: numbers, and nothing that they were computed from.
    seen = seen._replace(observations=jax.tree.map(np.array, seen.observations))

    def build(facts):
        return attacks.representation(facts)._replace(steps=5)

    before = reconstruct(build, seen, KEY)
    images[:], labels[:] = np.nan, -1
    after = reconstruct(build, seen, KEY)
    np.testing.assert_array_equal(before.images, after.images)
    np.testing.assert_array_equal(before.labels, after.labels)


def test_a_client_is_attacked_alike_whoever_else_there_is():
    seen = noise("lenet", clients=3)

    def build(facts):
        return attacks.idlg(facts)._replace(steps=5)

    alone = seen._replace(observations=jax.tree.map(lambda leaf: leaf[:1], seen.observations))
    both = reconstruct(build, seen, KEY), reconstruct(build, alone, KEY)
    np.testing.assert_allclose(both[0].images[0], both[1].images[0], atol=1e-4)
