"""The compiled engine computes what performance/minimal.py says in plain Python."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from experiments import load

from fl.data import datasets, partition
from fl.data.sampling import MinibatchSampler
from fl.experiment.departures import Departures
from fl.experiment.program import initial_params
from fl.simulation import algorithms, engine, pgd, training
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work

federation, minimal, runs = load("performance", "federation", "minimal", "runs")

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


def as_vector(params):
    """What `as_flax` undoes."""
    layers = [params["params"][name] for name in NAMES]
    return np.concatenate([np.vstack([each["kernel"], each["bias"]]).ravel() for each in layers])


def plain(algorithm, local_steps, alpha=0.5, start=None):
    """Parameters before and after some rounds of the plain loop, from where it starts or said."""
    images, labels = (array[:1437] for array in minimal.digits())
    one_round, optimizer = minimal.ALGORITHMS[algorithm]
    parts = minimal.latent_dirichlet(labels, CLIENTS, alpha, np.random.default_rng(SEED))
    clients = [minimal.Client(images[part], labels[part], optimizer(), SEED) for part in parts]
    start = w = minimal.initial_parameters(np.random.default_rng(SEED)) if start is None else start
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


def test_a_run_of_the_experiment_is_the_plain_loop(tmp_path):
    """Its data, who holds what, minibatches, and steps."""
    run = runs.Run(
        *("digits", "lenet", CLIENTS, "secadam", 0.1, 2, ROUNDS, minimal.BATCH, 1, "lda"),
        *("clear", None, None, "corrected", Departures(), runs.Overrides()),
    )
    trained = federation.train_federation(
        run, federation.plan(run, None), None, tmp_path / "run.npz"
    )
    # Seed 1 of a run is SEED.
    samples = training.training_samples(datasets.load("digits"))
    start = as_vector(initial_params("lenet", samples, SEED))
    _, want = plain("secadam", 2, alpha=0.1, start=start)
    got, want = as_vector(trained.outcome.state.params), as_vector(want)
    # Where a gradient is nothing but rounding, its sign is anything.
    assert np.linalg.norm(got - want) < 0.03 * np.linalg.norm(want - start)


def test_a_student_runs_it():
    command = [sys.executable, "minimal.py", "--algorithm", "secadam"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    *_, last = done.stdout.splitlines()
    assert last.startswith("round 200: test accuracy ")
    assert float(last.split()[-1]) > 0.85
