"""Guesses at what the paper ran: each sets options, and these do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from experiments import load

from fl.data.sampling import MinibatchSampler
from fl.experiment.departures import Departures
from fl.experiment.options import parse
from fl.experiment.runs import cells
from fl.simulation import algorithms, engine, pgd, rounds, training
from fl.simulation.models import MODELS

inversion = load("inversion", "options", "grid", "hypotheses", "server_view", "option_checks")
mitigation = load("mitigation", "options", "defences", "federation", "hypotheses")


def made(experiment, line):
    """The only run of a command line."""
    options, parser = parse(experiment[0].Options, "", line.split())
    if experiment is mitigation:
        (run,) = experiment[0].grid(experiment[0].resolve(options, parser))
    else:
        (run,) = experiment[1].grid(experiment[0].resolve(options))
    return run


@pytest.mark.parametrize("experiment", [inversion, mitigation], ids=["inversion", "mitigation"])
def test_every_hypothesis_shows_in_its_rows(experiment):
    module = experiment[2] if experiment is inversion else experiment[3]
    for name in module.HYPOTHESES:
        dp = "--dp 1 0.1" if experiment is inversion else ""
        found = cells(made(experiment, f"{dp} --hypothesis {name}"))
        plain = cells(made(experiment, dp))
        assert {found["departures"], found["overrides"]} != {plain["departures"], None}, name
        for column in set(plain) - {"variant", "departures", "overrides", "delta"}:
            assert found[column] == plain[column], column


def test_under_the_shared_noise_the_clip_is_a_real_one_and_no_image_scores_twice():
    run = made(inversion, "--dp 1 0.1 --hypothesis shared-noise")
    assert run.overrides.shared_noise
    assert not run.departures.dp_clip
    assert not run.departures.best_match
    assert run.departures.stale_update
    assert run.guarantee(1e-5) is None


@pytest.mark.parametrize("shared", [False, True])
def test_clients_of_a_round_add_the_same_noise_or_each_its_own(shared):
    def only_noise(message, key):
        return jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), message)

    model = MODELS["softmax"]()
    samples = training.Samples(
        jnp.zeros((30, 4, 4, 1), jnp.uint8), jnp.zeros(30, jnp.int32), jnp.asarray(255.0)
    )
    losses = training.sample_losses(model)
    work = rounds.Work(
        *(algorithms.fedavg(), losses, pgd.none()), privatise=only_noise, shared_noise=shared
    )
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1))))
    sampler = MinibatchSampler(np.split(np.arange(30), 3), 4, range(3))
    federation = engine.start(work, params, samples, 3, 1, keep_clients=True)
    state, _ = federation.run(federation.state, sampler.draw(1, 1))
    step = state.params["params"]["classifier"]["kernel"]
    assert float(step.std()) == pytest.approx(1 if shared else 3**-0.5, rel=0.2)
    server_view = inversion[3]
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(work, state, samples, indices, sampler.weights)
    kernels = seen.clients["params"]["classifier"]["kernel"]
    assert bool((kernels == kernels[:1]).all()) == shared


def test_a_smaller_clip_bounds_the_servers_step():
    step = {"w": jnp.ones(100)}
    for line, norm in (("", 0.01), ("--hypothesis small-clip", 0.001)):
        run = made(mitigation, f"-m softmax --defence noise_clip {line}")
        guarded = mitigation[2].work(run).guard(step, jax.random.key(0))["w"]
        assert float(jnp.linalg.norm(guarded)) == pytest.approx(norm, rel=0.05)
    assert run.departures == Departures.of(load("mitigation", "runs")[0].DEPARTURES)


def test_few_models_certify_where_the_paper_does():
    """The hypothesis fits which of its 99 certified accuracies are nothing, on all data sets."""
    certificate, papers = load("mitigation", "certificate", "paper_figures")
    figures = pd.read_csv(papers.PAPER.path)
    figures = figures[figures["metric"] == "certified_accuracy"].to_dict("records")
    assert len(figures) == 99
    counts = np.zeros((2, 10), int)
    counts[:, 0] = 100  # a hundred models with one noise
    ballot = certificate.Ballot(counts, np.zeros(2, int), 1)
    for figure in figures:
        eps = "" if pd.isna(figure["eps"]) else f"--eps {figure['eps']}"
        of = " ".join(f"--{name} {figure[name]}" for name in papers.PAPER.keys[:-1])
        run = made(mitigation, f"{of} {eps} --hypothesis few-models")
        certified = certificate.certify(run, ballot).scores["certified_accuracy"]
        assert certified == (figure["mean"] > 0.01), figure
