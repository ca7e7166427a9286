"""Each departure of the published code: its branch does what is said, and without it nothing."""

from argparse import ArgumentTypeError
from dataclasses import fields
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.data.sampling import MinibatchSampler
from fl.experiment.departures import CORRECTED, PARTIAL, PUBLISHED, Departures, argument, variant
from fl.experiment.options import parse
from fl.experiment.runs import cells
from fl.simulation import algorithms, clip_and_noise, engine, pgd, rounds, training
from fl.simulation.models import MODELS

EXPERIMENTS = ("inversion", "performance", "mitigation")
SHAPE = (4, 4, 1)
softmax = MODELS["softmax"]()


def modules(experiment, *names):
    return SimpleNamespace(**dict(zip(names, load(experiment, *names), strict=True)))


inversion = modules(
    "inversion",
    *("attacks", "federation", "grid", "image_metrics", "options", "reconstruction", "runs"),
    *("server_view", "threat_model"),
)
mitigation = modules(
    "mitigation",
    *("attack_success", "certificate", "federation", "options", "runs", "stages"),
)
performance = modules("performance", "federation", "options", "runs")


def made(experiment, line=""):
    """The runs that a command line stands for, and their cells."""
    options, parser = parse(experiment.options.Options, "", line.split())
    if experiment is mitigation:
        options = experiment.options.resolve(options, parser)
    if experiment is inversion:
        options = experiment.options.resolve(options)
    grid = inversion.grid.grid if experiment is inversion else experiment.options.grid
    return [(run, cells(run)) for run in grid(options)]


# The option and the columns


@pytest.mark.parametrize("experiment", [inversion, performance, mitigation], ids=EXPERIMENTS)
def test_the_option_restores_all_that_acts_or_some_and_rows_say_which(experiment):
    acting = experiment.runs.DEPARTURES
    assert {*acting} <= {*Departures(*[True] * len(fields(Departures))).ids()}
    ((_, plain),) = made(experiment)
    assert (plain["variant"], plain["departures"]) == (CORRECTED, None)
    ((run, all_of_them),) = made(experiment, "--as-published")
    assert all_of_them["variant"] == PUBLISHED
    assert sorted(all_of_them["departures"].split()) == sorted(acting)
    assert run.departures == Departures.of(acting)
    ((run, some),) = made(experiment, "--as-published=last-batch,clipped-loss")
    assert (some["variant"], some["departures"]) == (PARTIAL, "clipped-loss last-batch")
    assert run.departures == Departures(last_batch=True, clipped_loss=True)


def test_every_departure_acts_somewhere():
    acting = {
        name
        for experiment in (inversion, performance, mitigation)
        for name in experiment.runs.DEPARTURES
    }
    assert acting == {*Departures(*[True] * len(fields(Departures))).ids()}


@pytest.mark.parametrize("text", ["masks", "moments,stale", "stale-update", ""])
def test_what_does_not_act_is_refused_with_what_does(text):
    with pytest.raises(ArgumentTypeError, match="choose from moments, last-batch"):
        argument(("moments", "last-batch"))(text)


def test_a_part_is_not_restored_without_the_whole():
    with pytest.raises(ArgumentTypeError, match="part of stale-update"):
        argument(inversion.runs.DEPARTURES)("hardened-stale")


def test_all_that_act_named_one_by_one_are_the_published_variant():
    acting = ("moments", "last-batch")
    assert variant(argument(acting)("last-batch,moments"), acting) == PUBLISHED


# clipped-loss


def steep(scale):
    """Parameters that give class 1 of black images an output of e^-scale."""
    params = softmax.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    params["params"]["classifier"]["bias"] = jnp.zeros(10).at[0].set(scale)
    return params


@pytest.mark.parametrize("clipped", [False, True])
def test_losses_of_outputs_below_the_clip_are_constant(clipped):
    losses, images = training.sample_losses(softmax, clipped), jnp.zeros((1, *SHAPE))
    for scale, beyond in ((20.0, False), (50.0, True)):
        loss, gradient = jax.value_and_grad(lambda w: losses(w, images, jnp.array([1])).sum())(
            steep(scale)
        )
        moves = float(jnp.abs(gradient["params"]["classifier"]["bias"]).max())
        expected = min(scale, -np.log(1e-15)) if clipped else scale
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        assert (moves == 0) == (clipped and beyond)


@pytest.mark.parametrize("departures", [Departures(), Departures(clipped_loss=True)])
@pytest.mark.parametrize("experiment", [inversion, performance, mitigation], ids=EXPERIMENTS)
def test_every_experiments_clients_train_on_it(experiment, departures):
    line = "--model softmax" + " --as-published=clipped-loss" * departures.clipped_loss
    ((run, _),) = made(experiment, line)
    if experiment is performance:
        work = performance.federation.work("softmax", "fedavg", 1, departures, run.overrides)
    elif experiment is inversion:
        work = inversion.federation.work_of(run)
    else:
        work = mitigation.federation.work(run)
    loss = work.losses(steep(50.0), jnp.zeros((1, *SHAPE)), jnp.array([1]))
    np.testing.assert_allclose(loss, 34.54 if departures.clipped_loss else 50, rtol=1e-3)


# Inversion


def little_federation(privatise=None):
    """Three clients of FedAvg whose hardening moves every pixel by 0.2."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(60, 190, (30, *SHAPE)), jnp.uint8)
    labels = jnp.asarray(rng.integers(0, 10, 30), jnp.int32)
    samples = training.Samples(images, labels, jnp.asarray(255.0))
    losses = training.sample_losses(softmax)
    work = rounds.Work(algorithms.fedavg(0.5), losses, pgd.pgd(losses, 0.2), privatise=privatise)
    params = softmax.init(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    state = engine.start(work, params, samples, 3, 1, keep_clients=True).state
    sampler = MinibatchSampler(np.split(np.arange(30), 3), 4, range(3))
    return work, state, samples, sampler


def updates(work, state, samples, indices, weights, hardened):
    """w - w_i of each client."""
    for own, weight in zip(indices, weights, strict=True):
        images, labels = samples.take(own)
        if hardened:
            images = work.harden(state.params, images, labels)
        _, gradient = work.gradient(state.params, images, labels, weight)
        yield jax.tree.map(lambda leaf: 0.5 * leaf, gradient)


def vectors(trees):
    return np.stack([np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)]) for t in trees])


@pytest.mark.parametrize("hardened", [False, True])
def test_a_stale_update_is_of_a_hardened_minibatch_or_not(hardened):
    *seen, sampler = little_federation()
    indices, later = (sampler.draw(1, 1).indices[0, :, 0] for _ in range(2))
    got, _ = inversion.server_view.observe_stale(*seen, indices, later, sampler.weights, hardened)
    sent = vectors(updates(*seen, indices, sampler.weights, hardened))
    clients = [jax.tree.map(lambda leaf, n=n: leaf[n], got.clients) for n in range(3)]
    np.testing.assert_allclose(vectors(clients), sent - sent.mean(0), rtol=1e-3, atol=1e-6)


def test_a_stale_update_under_dp_is_clipped_and_noised_afresh():
    privatise = clip_and_noise.privatiser(clip=1e-3, noise=0.0)
    *seen, sampler = little_federation(privatise)
    indices, later = (sampler.draw(1, 1).indices[0, :, 0] for _ in range(2))
    for afresh in (False, True):
        got, _ = inversion.server_view.observe_stale(*seen, indices, later, sampler.weights, afresh)
        clients = [jax.tree.map(lambda leaf, n=n: leaf[n], got.clients) for n in range(3)]
        norms = np.linalg.norm(vectors(clients), axis=1)
        # Else what was clipped is the training's messages, of which the mean is taken off.
        assert np.allclose(norms, 1e-3, rtol=1e-3) == afresh


@pytest.mark.parametrize(("line", "norm"), [("", 0.5), ("--as-published=dp-clip", 5.0)])
def test_the_published_clip_lets_large_updates_pass(line, norm):
    ((run, _),) = made(inversion, f"--model softmax --dp 0.5 0 {line}")
    sent = inversion.federation.work_of(run).privatise(jnp.array([3.0, 4.0]), jax.random.key(0))
    np.testing.assert_allclose(jnp.linalg.norm(sent), norm, rtol=1e-5)


def test_ssim_of_the_range_that_old_libraries_took():
    from skimage.metrics import structural_similarity

    a, b = np.random.default_rng(0).uniform(size=(2, 14, 15, 1)).astype(np.float32)
    for metrics, span in (
        (inversion.image_metrics.METRICS, 1),
        (inversion.image_metrics.PUBLISHED_METRICS, 2),
    ):
        expected = structural_similarity(a, b, win_size=11, data_range=span, channel_axis=-1)
        assert float(metrics[1](a, b)) == pytest.approx(abs(expected), abs=1e-6)


@pytest.mark.parametrize("one_start", [False, True])
def test_attacks_start_from_the_same_images_or_from_their_own(one_start):
    public = inversion.threat_model.PublicKnowledge(softmax, SHAPE, 2, algorithms.fedavg())
    params = softmax.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    observations = jax.tree.map(lambda leaf: jnp.ones((3, *leaf.shape)), params)
    view = inversion.threat_model.AttackerView(observations, params, public)
    problem = inversion.attacks.ATTACKS["representation"].problem(public)._replace(steps=0)
    got = inversion.reconstruction.reconstruct(problem, view, jax.random.key(0), 1, one_start)
    assert bool((got.images == got.images[:1]).all()) == one_start


@pytest.mark.parametrize(
    ("line", "every"),
    [
        ("", 10),
        ("--converge 0.8", 10),
        ("--as-published=converge-every", 10),
        ("--converge 0.8 --as-published=converge-every", 1),
    ],
)
def test_convergence_is_looked_for_every_round_as_published(line, every):
    ((run, _),) = made(inversion, line)
    assert inversion.federation.evaluate_every(run) == every


# Mitigation


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("--defence none", [(None, 0.1)]),
        ("--defence none --eps 0.5", [(None, 0.1)]),
        ("--defence pgd --eps 0.2 0.5", [(0.2, 0.2), (0.5, 0.5)]),
        ("--defence none --as-published=delta", [(None, 0.3)]),
        ("--defence none --as-published=delta --eps 0.2 0.5", [(None, 0.2), (None, 0.5)]),
        ("--defence pgd --as-published=delta", [(0.1, 0.3)]),
        ("--defence pgd --as-published=delta --eps 0.2 0.5", [(0.2, 0.2), (0.5, 0.5)]),
        ("--defence none --as-published=delta --eps 0.2 0.5 --delta 1", [(None, 1.0)]),
    ],
)
def test_delta_is_eps_or_as_published_three_tenths(line, pairs):
    assert [(run.eps, run.delta) for run, _ in made(mitigation, line)] == pairs


@pytest.mark.parametrize(("unused", "box"), [(False, 0.1), (True, 0.3)])
def test_eps_never_reaches_the_box_as_published(unused, box):
    line = "--defence pgd --eps 0.1 --pgd-step 0.4" + " --as-published=eps-unused" * unused
    ((run, _),) = made(mitigation, line)
    assert mitigation.federation.rounds_of(run).eps == box


def farthest_radius(line):
    counts = np.zeros((2, 10), int)
    counts[:, :2] = (999, 1), (600, 400)
    ((run, _),) = made(mitigation, line)
    ballot = mitigation.certificate.Ballot(counts, np.array([0, 0]), 1)
    return mitigation.certificate.certify(run, ballot).curve[-1][0]


def test_certificates_assume_a_quarter_poisoned_as_published():
    plain = farthest_radius("-d fashion_mnist")
    quarter = farthest_radius("-d fashion_mnist --as-published=poison-share")
    assert quarter / plain == pytest.approx((10 / 31) / (1 / 4))


def test_frozen_noise_gives_all_smoothed_models_one_vote():
    images, labels = np.zeros((4, 16, 16, 1), np.uint8), np.array([7, 3, 0, 7], np.int32)
    dataset = SimpleNamespace(test_images=images, test_labels=labels, scale=255.0)
    params = {"params": {"classifier": {"kernel": jnp.zeros((256, 10)), "bias": jnp.zeros(10)}}}
    for line in ("", "--as-published=frozen-noise"):
        ((run, _),) = made(mitigation, f"--smoothed-models 50 -m softmax {line}")
        counts = mitigation.certificate.vote(run, params, dataset).counts
        assert (counts.max() == 50) == bool(line)


def test_attack_success_is_measured_without_the_last_minibatch_as_published():
    labels = np.array([7] * 9 + [3])
    assert len(mitigation.attack_success.triggered(labels)) == 9
    assert mitigation.attack_success.triggered(labels, 4).tolist() == [10 + n for n in range(8)]


HELD = (40, 40, 40, 12, 9)


def minibatches(line="", attacked=True):
    """Who draws what in a round of the attack: the last two of five clients are adversaries."""
    parts = np.split(np.arange(sum(HELD)), np.cumsum(HELD)[:-1])
    labels = np.array([7, 0] * sum(HELD))[: sum(HELD)]
    clean = SimpleNamespace(
        sampler=MinibatchSampler(parts, 32, [0] * 5),
        dataset=SimpleNamespace(train_labels=labels),
        outcome=SimpleNamespace(
            state=rounds.State(jnp.zeros(1), (), [], jax.random.PRNGKey(0), ()),
            history=[],
            diverged=False,
        ),
    )
    ((run, _),) = made(mitigation, f"-d fashion_mnist -n 5 --adversaries 2 --defence pgd {line}")
    drawn = mitigation.stages._Stages(run, clean, None, 1)._minibatches(attacked).draw(1, 1)
    return drawn.indices[0, :, 0], np.count_nonzero(drawn.weights, axis=1), drawn.deviates


def test_adversaries_draw_the_same_backdoored_samples_as_published():
    for line in ("", "--as-published=shared-poison"):
        indices, _, _ = minibatches(line)
        backdoored = [indices[3, 12:22] % sum(HELD), indices[4, 9:19] % sum(HELD)]
        assert (backdoored[0] == backdoored[1]).all() == bool(line)
    honest, _, _ = minibatches(attacked=False)
    # Of its own samples it draws as many as stay clean, and no more.
    part = np.arange(sum(HELD[:3]), sum(HELD[:4]))
    expected = part[np.random.default_rng(0).choice(12, 12, replace=False)]
    assert (indices[3, :12] == expected).all()
    assert (honest[3, :12] == expected).all()


def test_a_small_adversary_splits_what_it_has_as_published():
    _, sizes, _ = minibatches()
    assert sizes.tolist() == [32, 32, 32, 22, 19]
    _, sizes, _ = minibatches("--as-published=small-adversary")
    assert sizes.tolist() == [32, 32, 32, 8 + 4, 6 + 3]


def test_adversaries_never_harden_as_published():
    for line in ("", "--as-published=adversary-pgd"):
        *_, deviates = minibatches(line, attacked=False)
        assert deviates.tolist() == [False] * 3 + [bool(line)] * 2
        *_, deviates = minibatches(line)
        assert deviates.tolist() == [False] * 3 + [True] * 2
        ((run, _),) = made(mitigation, f"--defence pgd {line}")
        assert mitigation.federation.before_attack(run).adversaries == (30 if line else None)
        ((run, _),) = made(mitigation, line)  # nobody hardens
        assert mitigation.federation.before_attack(run).adversaries is None
