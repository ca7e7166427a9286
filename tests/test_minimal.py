"""The compiled engine computes what performance/minimal.py says in plain Python."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

import minimal

from fl.data import datasets, partition
from fl.data.sampling import MinibatchSampler
from fl.simulation import algorithms, engine, pgd, training
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work

FOLDER = Path(minimal.__file__).parent
CLIENTS, ROUNDS, SEED = 6, 5, 503
NAMES = "Dense_0", "Dense_1", "classifier"


def as_flax(w):
    """The vector of all parameters as Flax's."""
    params = {}
    for name, (n, k) in zip(NAMES, minimal.LAYERS, strict=True):
        layer, w = w[: (n + 1) * k].reshape(n + 1, k), w[(n + 1) * k :]
        params[name] = {"kernel": layer[:-1], "bias": layer[-1]}
    return {"params": params}


def plain(algorithm, local_steps):
    """Parameters before and after some rounds of the plain loop."""
    images, labels = (array[:1437] for array in minimal.digits())
    one_round, optimizer = minimal.ALGORITHMS[algorithm]
    parts = minimal.latent_dirichlet(labels, CLIENTS, 0.5, np.random.default_rng(SEED))
    clients = [minimal.Client(images[part], labels[part], optimizer(), SEED) for part in parts]
    start = w = minimal.initial_parameters(np.random.default_rng(SEED))
    for _ in range(ROUNDS):
        w = one_round(w, clients, local_steps)
    return as_flax(start), as_flax(w)


def compiled(algorithm, local_steps, params):
    """Parameters after the same rounds of the engine."""
    dataset = datasets.load("digits")
    samples = training.training_samples(dataset)
    parts = partition.latent_dirichlet(
        dataset.train_labels, CLIENTS, np.random.default_rng(SEED), 0.5
    )
    assert min(map(len, parts)) >= minimal.BATCH, "weights of smaller minibatches are in float32"
    sampler = MinibatchSampler(parts, minimal.BATCH, [SEED] * CLIENTS)
    losses, made = training.sample_losses(MODELS["lenet"]()), algorithms.ALGORITHMS[algorithm]()
    work = Work(made, losses, pgd.pgd(losses, 0.01 * made.client_rate))
    federation = engine.start(work, params, samples, CLIENTS, local_steps)
    state, _ = federation.run(federation.state, sampler.draw(ROUNDS, local_steps))
    return state.params


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("algorithm", minimal.ALGORITHMS)
@pytest.mark.parametrize("local_steps", [1, 3])
def test_the_engine_agrees_with_the_plain_loop(algorithm, local_steps):
    start, want = plain(algorithm, local_steps)
    got = compiled(algorithm, local_steps, start)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), start, want)
    assert min(jax.tree.leaves(moved)) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, want)


def test_a_student_runs_it():
    command = [sys.executable, "minimal.py", "--algorithm", "secadam"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    *_, last = done.stdout.splitlines()
    assert last.startswith("round 200: test accuracy ")
    assert float(last.split()[-1]) > 0.85
