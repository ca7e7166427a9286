"""The attacks do what their papers say, find what theory says must leak, and see nothing else."""

import ast
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.data import datasets
from fl.simulation import algorithms
from fl.simulation.models import CLASSES, MODELS
from fl.simulation.training import sample_losses

attacks, gradient_matching, image_metrics, label_inference, reconstruction, threat_model = load(
    *("inversion", "attacks", "gradient_matching", "image_metrics", "label_inference"),
    *("reconstruction", "threat_model"),
)
ATTACKS, reconstruct = attacks.ATTACKS, reconstruction.reconstruct
AttackerView, PublicKnowledge = threat_model.AttackerView, threat_model.PublicKnowledge
infer_labels, psnr = label_inference.infer_labels, image_metrics.psnr

FOLDER = Path(attacks.__file__).parent
KEY = jax.random.key(3)
FEDAVG = algorithms.fedavg()
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

    received = rules.broadcast(params, rules.init_server(params))

    def client(x, y):
        gradient = jax.grad(lambda p: losses(p, x, y).mean())(params)
        local, state = rules.local_step(received, params, rules.init_client(params), gradient)
        return rules.reveal(rules.message(received, local, state)[0])

    public = PublicKnowledge(model, images.shape[2:], images.shape[1], rules)
    return AttackerView(jax.jit(jax.vmap(client))(images, labels), params, public)


def noise(model, clients=3, batch=2, shape=SMALL):
    """An observation and parameters of random numbers, in the float type that JAX is in."""
    network, rng = MODELS[model](), np.random.default_rng(0)
    leaves = jax.eval_shape(network.init, KEY, jnp.zeros((batch, *shape)))

    def random(*leading):
        return jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(0, 0.1, (*leading, *leaf.shape)), float), leaves
        )

    public = PublicKnowledge(network, shape, batch, FEDAVG)
    return AttackerView(random(clients), random(), public)


def mean_psnr(found, true):
    return float(np.minimum(psnr(found, true), 100).mean())


def first(view):
    return jax.tree.map(lambda leaf: leaf[0], view.observations)


def attack(name, view, restarts=1, steps=None):
    """Reconstruct by the attack of this name, in fewer steps than its own if said."""
    problem = ATTACKS[name].problem(view.public)
    problem = problem._replace(steps=min(problem.steps, steps or problem.steps))
    return reconstruct(problem, view, KEY, restarts)


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
        name: attack("analytic", observe(name, images, labels)) for name in ("fedavg", "secadam")
    }
    assert float(psnr(found["fedavg"].images, images).min()) > 60
    assert mean_psnr(found["secadam"].images, images) < 15
    # What is left is where the image is not zero.
    np.testing.assert_allclose(found["secadam"].images, images > 0, atol=1e-3)


def test_analytic_finds_most_images_of_a_batch():
    images, labels = minibatches(20, 8)
    found = attack("analytic", observe("fedavg", images, labels))
    best = psnr(found.images[:, None], images[:, :, None]).max(axis=2)
    assert (best > 60).mean() > 0.5


@pytest.mark.parametrize("batch", [1, 2])
def test_analytic_survives_an_observation_of_nothing(batch):
    seen = noise("softmax", batch=batch)
    nothing = jax.tree.map(jnp.zeros_like, first(seen))
    images = ATTACKS["analytic"].problem(seen.public).init(KEY, nothing, seen.params, None)
    np.testing.assert_array_equal(images, jnp.zeros((batch, *SMALL)))


@pytest.mark.parametrize("model", ["cnn1", "cnn2"])
def test_analytic_refuses_a_convolutional_first_layer(model):
    public = PublicKnowledge(MODELS[model](), (16, 16, 1), 1, FEDAVG)
    with pytest.raises(ValueError, match=r"first layer is dense, which that of CNN\d is not"):
        ATTACKS["analytic"].problem(public)


@pytest.mark.parametrize("name", ["cosine", "idlg", "cpl"])
def test_gradient_attacks_find_the_image_of_an_update(name):
    images, labels = minibatches(2, 1)
    found = attack(name, observe("fedavg", images, labels), restarts=2)
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
    loss = attacks.representation(seen.public).loss(images, first(seen), seen.params, labels)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_representation_loss_has_a_derivative_where_nothing_is_represented():
    seen = noise("lenet")
    dead = jax.tree.map(jnp.zeros_like, seen.params)
    loss = attacks.representation(seen.public).loss
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
    loss = jax.jit(ATTACKS[name].problem(seen.public).loss)(
        images, first(seen), seen.params, labels
    )
    assert float(loss) == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "as_published", "factor"),
    [("fedavg", False, 0.1), ("fedavg", True, 1), ("adam", False, 0.001), ("secadam", False, 1)],
)
def test_idlg_undoes_what_clients_multiply_gradients_by(
    algorithm, as_published, factor, double_precision
):
    seen = noise("softmax")
    images, labels = jnp.full((2, *SMALL), 0.5), jnp.array([1, 2])
    losses = sample_losses(MODELS["softmax"]())
    gradient = jax.grad(lambda p: losses(p, images, labels).mean())(seen.params)
    public = seen.public._replace(algorithm=algorithms.ALGORITHMS[algorithm]())
    sent = jax.tree.map(lambda g: factor * g, gradient)
    loss = ATTACKS["idlg"].problem(public, as_published).loss(images, sent, seen.params, labels)
    assert float(loss) == pytest.approx(0, abs=1e-5)


def test_cosine_distance_of_nothing_is_one_and_has_a_derivative():
    def distance(scale):
        return gradient_matching.Match(scale**2, scale, jnp.ones(())).cosine_distance()

    value, slope = jax.value_and_grad(distance)(0.0)
    assert value == 1
    assert np.isfinite(slope)
    assert float(distance(1e-12)) == pytest.approx(0, abs=1e-6)


def test_cosine_steps_by_signs_alone_and_shrinks_along_a_cosine():
    optimizer = ATTACKS["cosine"].problem(noise("softmax").public).optimizer
    weak, strong = jnp.array([1e-3, -2.0]), jnp.array([5.0, -1e-4])

    def step(state, number):
        update, state = optimizer.update(jnp.where(number % 2, weak, strong), state)
        return state, update

    _, updates = jax.lax.scan(step, optimizer.init(weak), jnp.arange(attacks.COSINE_STEPS))
    signs = np.tile([-1, 1], (3, 1))
    expected = 0.1 * signs * [[1], [0.5], [0]]
    np.testing.assert_allclose(updates[jnp.array([0, 750, 1499])], expected, atol=1e-4)


def test_cpl_starts_from_a_repeated_patch():
    public = noise("lenet", shape=(7, 6, 1)).public
    images = attacks.cpl(public).init(KEY)
    assert images.shape == (2, 7, 6, 1)
    np.testing.assert_array_equal(images[:, :3], images[:, 4:])
    np.testing.assert_array_equal(images[:, :, :3], images[:, :, 3:])
    assert len(np.unique(images)) == 2 * 4 * 3


# Reconstruction.


def test_reconstructions_are_images():
    seen = noise("lenet")
    found = attack("representation", seen, restarts=2, steps=2)
    assert found.images.shape == (3, 2, *SMALL)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    expected = [
        infer_labels(jax.tree.map(lambda leaf, i=i: leaf[i], seen.observations), 2)
        for i in range(3)
    ]
    np.testing.assert_array_equal(found.labels, expected)


def test_a_client_is_attacked_alike_whoever_else_there_is():
    seen = noise("lenet", clients=3)
    alone = seen._replace(observations=jax.tree.map(lambda leaf: leaf[:1], seen.observations))
    found = [attack("idlg", view, steps=5).images[0] for view in (seen, alone)]
    np.testing.assert_allclose(*found, atol=1e-4)
    other = attack("idlg", seen, steps=5).images[1]
    assert float(jnp.abs(found[0] - other).max()) > 0.1
    # Each starts from noise of its own: twins with the same observation are not twins to an attack.
    twins = seen._replace(  # as many as before, for what is compiled
        observations=jax.tree.map(lambda leaf: leaf[jnp.array([0, 0, 0])], alone.observations)
    )
    one, twin, _ = attack("idlg", twins, steps=5).images
    assert float(jnp.abs(one - twin).max()) > 0.1


# What an attack may know.


def imported(path):
    """Names of the modules that a file imports, `a` and `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_attacks_have_no_way_to_the_data_or_the_truth():
    """Neither they nor any module of the experiment that they stand on."""
    reached, left = set(), {"attacks", "label_inference", "optimise"}
    while left:
        name = left.pop()
        reached.add(name)
        for other in imported(FOLDER / f"{name}.py"):
            assert not other.startswith("fl.data"), f"{name} imports {other}"
            if (FOLDER / f"{other}.py").exists():
                left |= {other} - reached
    assert "threat_model" in reached
    holders = {"federation", "scores", "server_view"}
    assert holders <= {path.stem for path in FOLDER.glob("*.py")}, "renamed"
    assert not reached & holders
