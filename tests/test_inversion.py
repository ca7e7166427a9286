"""The inversion experiment as a user runs it, and the observations that it attacks."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from programs import assert_refused, outcomes

from fl.data import augmentation, datasets, partition
from fl.data.sampling import MinibatchSampler
from fl.experiment import results
from fl.experiment.departures import Departures
from fl.simulation import algorithms, clip_and_noise, engine, pgd
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

FOLDER = Path(__file__).parents[1] / "inversion"
SHORT = "--attack-steps 3 --evaluate-every 2"
SMALL = f"-n 4 -b 3 -r 4 -m softmax {SHORT}"
ATTACKS = f"-o sgd ours --attack representation analytic {SMALL}"
PRIVATE = f"-b 2 -d digits -m softmax -n 3 -s 1 -r 3 -o sgd --dp 1 0.01 {SHORT}"
PRIVATE_MOMENTS = (
    "--attack adaptive -o ours -m lenet -n 2 -b 1 -r 9 --window 8 --attack-clients 1 "
    "--dp-epsilon 1 50 --delta 1e-3 --attack-steps 3"
)
PERTURBED = f"-m softmax -o ours --idlg --perturb -n 4 -r 4 {SHORT}"
PUBLISHED = f"-o sgd ours --as-published {SMALL}"
CONVERGING = "-m softmax --attack-steps 1 -r 400 -n 4 -b 3 --client-rate 0.5 --converge"
AGAIN = f"-s 0 1 --skip-done {SMALL}"
DRAWN = f"--gen-images --skip-done {SMALL}"
WATCHED = (
    "-o ours --attack adaptive --attack-clients 1 -m lenet -n 2 -b 1 -r 14 --window 8 "
    "--attack-round 8 14"
)
PROTECTED = f"{WATCHED[:-4]}14 --attack-clients 0 --protect sign --attack-steps 3"
AGGREGATES = "--aggregates -n 2 -r 14 --window 8 --attack-steps 3"
HEAT_MAPS = "--gradcams -m cnn1 -o adam -n 2 -b 2 -r 1"
SOME = f"-o ours --attack representation --participation 0.5 {SMALL}"
SOME_RESULTS = "some.csv"
# The space makes it another command line.
PICTURES = [DRAWN, f"{DRAWN} ", HEAT_MAPS, AGGREGATES]

dp_guarantee, federation, reconstruction, runs, server_view, threat_model = load(
    "inversion",
    *("dp_guarantee", "federation", "reconstruction", "runs", "server_view", "threat_model"),
)
CORRECTED, RESTORED = Departures(), Departures.of(runs.DEPARTURES)
guarantee, noise_for = dp_guarantee.guarantee, dp_guarantee.noise_for
PublicKnowledge = threat_model.PublicKnowledge


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What command lines of one process say, by command line, and the file of their results."""
    path = tmp_path_factory.mktemp("inversion") / "results.csv"
    words = [
        ATTACKS,
        PRIVATE,
        PRIVATE_MOMENTS,
        PERTURBED,
        PUBLISHED,
        CONVERGING,
        f"{CONVERGING} 0.5",
        AGAIN,
    ]
    some = f"--results {path.with_name(SOME_RESULTS)} {SOME}"
    said = outcomes(FOLDER, path, [*words, WATCHED, PROTECTED, *PICTURES, some])
    for status, text in said.values():
        assert status == 0, text
    return said, path


@pytest.fixture
def frame(made):
    """The rows of all these command lines."""
    return results.read(made[1])


def test_every_attack_gets_a_row_and_attacks_on_one_training_share_it(frame):
    frame = frame[:4]
    assert list(zip(frame.algorithm, frame.attack, strict=True)) == [
        ("fedavg", "representation"),
        ("fedavg", "analytic"),
        ("secadam", "representation"),
        ("secadam", "analytic"),
    ]
    assert frame.train_s.nunique() == 2
    for score in ("psnr", "ssim", "cosine", "global_psnr", "labels_recovered", "final_accuracy"):
        assert frame[score].notna().all()
    assert frame.labels_recovered.between(0, 1).all()


def test_those_who_take_part_in_the_attacked_round_are_attacked(made):
    (row,) = results.read(made[1].with_name(SOME_RESULTS)).to_dict("records")
    assert row["overrides"].endswith("participation=0.5")
    assert np.isfinite([row["psnr"], row["global_psnr"], row["final_accuracy"]]).all()


def test_published_command_line_with_dp_runs_unchanged(frame):
    (row,) = frame[frame.algorithm == "dp_fedavg"].to_dict("records")
    assert (row["clip"], row["noise"]) == (1, 0.01)
    assert row["batch_size"] == 2
    # What three rounds and the attacked one are worth, of three clients.
    assert row["epsilon"] == guarantee(1, 0.01, 3, 4, 1e-5).epsilon
    assert row["delta"] == 1e-5


def test_secadam_under_dp_has_the_epsilon_asked_for_and_is_watched(made, frame):
    (row,) = frame[frame.algorithm == "dp_secadam"].to_dict("records")
    assert row["epsilon"] == pytest.approx(50)
    assert (row["clip"], row["delta"]) == (1, 1e-3)
    assert row["noise"] == noise_for(50, 1, 2, 9, 1e-3)
    assert np.isfinite([row["psnr"], row["global_psnr"], row["final_accuracy"]]).all()
    assert "epsilon 50 at delta 0.001 of the sums of 9 rounds" in made[0][PRIVATE_MOMENTS][1]


def test_without_dp_there_is_no_epsilon(frame):
    plain = frame[~frame.algorithm.str.startswith("dp_")]
    assert plain[["epsilon", "delta"]].isna().all(axis=None)


def test_idlg_takes_minibatches_of_one_and_perturbing_is_named(frame):
    (row,) = frame[frame.attack == "idlg"].to_dict("records")
    assert row["algorithm"] == "secadam_perturbed"
    assert row["batch_size"] == 1


def test_published_variant_is_marked_and_computes_otherwise(frame):
    variants = frame[(frame.attack == "representation") & (frame.rounds == 4) & (frame.seed == 0)]
    for _, rows in variants.groupby("algorithm"):
        assert rows.variant.tolist() == ["corrected", "published"]
        assert rows.psnr.nunique() == 2


def test_windows_are_attacked_at_several_rounds_of_one_training(frame):
    rows = frame[(frame.attack == "adaptive") & frame.protection.isna() & frame.epsilon.isna()]
    assert rows.attack_round.tolist() == [8, 14]
    assert (rows.window == 8).all()
    assert rows.train_s.nunique() == 1
    for score in ("psnr", "chance_psnr", "recovered", "ceiling_psnr", "final_accuracy"):
        for prefix in ("", "global_") if score != "final_accuracy" else ("",):
            assert rows[prefix + score].notna().all()
    assert (rows.ceiling_psnr > 40).all()


def test_protected_ratios_and_the_aggregate_alone(frame):
    (row,) = frame[frame.protection == "sign"].to_dict("records")
    assert np.isnan(row["psnr"])
    assert row["global_psnr"] > 0


def test_training_stops_at_the_accuracy_asked_for_or_at_the_papers(frame):
    papers, asked = frame[frame.converge.notna()].to_dict("records")
    assert (papers["converge"], asked["converge"]) == (0.9, 0.5)
    assert papers["final_accuracy"] >= 0.9
    assert 0.5 <= asked["final_accuracy"] < 0.9
    assert asked["rounds_run"] < papers["rounds_run"] < 400


def test_runs_that_are_there_are_skipped(made, frame):
    assert "1 of 2 runs are already in" in made[0][AGAIN][1]
    assert frame[frame.attack == "representation"].seed.iloc[-1] == 1
    assert not frame.drop(columns=["date", "train_s", "attack_s"]).duplicated().any()


def test_pictures_are_drawn_once_and_leave_no_rows_and_no_checkpoints(made, frame):
    said, path = made
    assert {file.name for file in (path.parent / "figures").iterdir()} == {
        f"{name}_seed-0.{kind}"
        for name in (
            *("reconstructions_digits_softmax", "gradcam_digits_cnn1"),
            "aggregates_digits_lenet",
        )
        for kind in ("pdf", "png")
    }
    assert "1 of 1 pictures are there" in said[f"{DRAWN} "][1]
    assert len(frame) == 4 + 1 + 1 + 1 + 2 + 2 + 1 + 2 + 1
    assert not list(path.parent.glob(".checkpoints/*"))


REFUSED = {
    "--gen-images --coordinator a:1 --processes 2 --process 0": "argument --coordinator: pictures "
    "are drawn by a single process",
    "--participation 0.5 -o ours --attack adaptive": "argument --participation: attacks that watch",
    "--participation 0.5 --dp 1 0.1": "argument --participation: the noise of --dp",
    "--participation 0.5 --as-published": "argument --participation: stale-update",
    "--idlg -b 2": "--idlg",
    "--as-published=masks": "choose from stale-update, hardened-stale, dp-clip, moments",
    "--as-published=hardened-stale": "argument --as-published: hardened-stale is a part of",
    "--shared-noise": "argument --shared-noise: is of the noise of --dp",
    "--scaled-ratio": "argument --scaled-ratio: is of SecAdam's ratio, not of fedavg",
    "--scaled-ratio -o ours --attack adaptive": "argument --scaled-ratio: is for attacks on a sing",
    "--attack adaptive -o sgd": "for which the exact attack is made",
    "--attack adaptive -o ours --converge": "--converge",
    "--attack adaptive -o ours --attack-round 800": "beyond the 750 rounds",
    "--attack adaptive -o adam --protect sign": "--protect",
    "--attack adaptive -o ours --protect int4": "choose from none, float16",
    "--window 10": "--window",
    "--local-steps 3": "--local-steps",
    "--dp 0 0.1": "--dp",
    "--dp 1 -0.1": "--dp",
    "--dp 1 0.1 --delta 1": "--delta",
    "--delta 1e-6": "--delta",
    "--dp-epsilon 1 0": "--dp-epsilon",
    "--dp-epsilon 1 8 --dp 1 0.1": "--dp-epsilon",
    "--dp-epsilon 1 8 --as-published": "--dp-epsilon",
    "--dp 1 0.1 -o ours --attack adaptive --protect sign": "--protect",
    "--attack analytic -m cnn1": "--attack",
    "--attack guess": "choose from representation",
    "-n 0": "--num-clients",
    "-n 5000": "--num-clients",
    "--converge 2": "--converge",
    "--restarts 0": "--restarts",
    "-o fedadam": "choose from fedavg, adam, secadam",
    "--classifier-metric -d digits svhn": "--classifier-metric",
    "--gradcams -m lenet": "--gradcams",
    "--gradcams --gen-images": "--gradcams",
    "--gen-images --attack cosine idlg": "--attack",
    "--gen-images --converge 0.5": "--converge",
    "--gen-images -n 2 3": "--clients",
    "--gen-images --aggregates": "--aggregates",
    "--aggregates -o adam": "algorithms and attacks of its own",
    "--aggregates --attack exact": "algorithms and attacks of its own",
    "--aggregates -b 1 8": "--batch-size",
    "--aggregates -m cnn1": "first layer is dense",
}


def test_wrong_options_exit_with_a_sentence_that_names_them(tmp_path):
    assert_refused(FOLDER, tmp_path / "results.csv", REFUSED)


def a_run(algorithm, departures=CORRECTED, clip=None, noise=None, **overrides):
    return runs.Run(
        *("digits", "softmax", 3, algorithm, "representation", clip, noise, 0, 4, 8, 1, 0.5),
        *("lda", 1, None, None, None, None, "", departures, runs.Overrides(**overrides)),
    )


def test_runs_differ_in_training_by_all_but_their_attack():
    one = a_run("fedavg")
    assert one.training() == replace(one, attack="analytic", restarts=5).training()
    assert one.training() == a_run("fedavg", attack_steps=3, scaled_ratio=True).training()
    for other in (replace(one, seed=1), a_run("fedavg", pgd_step=0.1), a_run("adam")):
        assert one.training() != other.training()


def test_a_window_begins_no_earlier_than_the_first_round():
    begins = [
        replace(a_run("secadam"), window=8, attack_round=last).rounds_before for last in (3, 8, 14)
    ]
    assert begins == [0, 0, 6]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("perturbed", [False, True])
def test_an_algorithms_label_says_what_is_done_beside_it(private, perturbed):
    run = a_run(runs.algorithm_label("fedavg", private, perturbed), clip=0.5, noise=0.0)
    assert run.algorithm == "dp_" * private + "fedavg" + "_perturbed" * perturbed
    assert run.algorithm_name == "fedavg"
    assert run.perturbed == perturbed


@pytest.mark.parametrize(
    ("run", "step"),
    [
        (a_run("fedavg"), 0.001),
        (a_run("adam"), 1e-5),
        (a_run("fedavg", client_rate=0.2), 0.002),
        (a_run("secadam", pgd_step=0.03), 0.03),
        (a_run("adam", RESTORED), 0.001),
        (a_run("secadam", RESTORED), 1e-5),
    ],
)
def test_minibatches_are_hardened_by_one_percent_of_the_rate_or_as_published(run, step):
    params = MODELS["softmax"]().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    images = jnp.full((2, 4, 4, 1), 0.5)
    hardened = federation.work_of(run).harden(params, images, jnp.array([1, 2]))
    np.testing.assert_allclose(np.abs(hardened - images), step, rtol=1e-2)


def test_secadams_clients_send_raw_moments_as_published():
    params, gradient = jnp.zeros(3), jnp.array([1.0, -2.0, 0.0])
    sent = {}
    for departures in (CORRECTED, RESTORED):
        algorithm = federation.work_of(a_run("secadam", departures)).algorithm
        received = algorithm.broadcast(params, algorithm.init_server(params))
        local, state = algorithm.local_step(
            received, params, algorithm.init_client(params), gradient
        )
        sent[departures], _ = algorithm.message(received, local, state)
    np.testing.assert_allclose(sent[CORRECTED].m, gradient, rtol=1e-6)
    np.testing.assert_allclose(sent[CORRECTED].v, gradient**2 + 1e-16, rtol=1e-4)
    np.testing.assert_allclose(sent[RESTORED].m, 0.1 * gradient, rtol=1e-6)
    np.testing.assert_allclose(sent[RESTORED].v, 0.001 * gradient**2 + 1e-8, rtol=1e-4)


def test_a_runs_clients_rotate_clip_and_step_as_it_says():
    plain = federation.work_of(a_run("fedavg"))
    assert plain.augment is None
    assert plain.privatise is None
    other = federation.work_of(a_run("dp_fedavg_perturbed", clip=0.5, noise=0.0, client_rate=0.2))
    assert other.algorithm.client_rate == 0.2
    key, image = jax.random.key(0), jnp.zeros((1, 9, 9, 1)).at[0, 4, 8].set(1)
    assert float(jnp.abs(other.augment(image, key) - image).max()) > 0.01
    clipped = other.privatise(jnp.array([3.0, 4.0]), key)
    np.testing.assert_allclose(clipped, [0.3, 0.4], rtol=1e-5)


def test_secadams_clients_clip_both_moments_and_the_server_divides_by_no_less_than_the_noise():
    clip, noise = 0.5, 0.2
    work = federation.work_of(a_run("dp_secadam", clip=clip, noise=noise))
    huge = algorithms.Moments(jnp.full(40_000, 3.0), jnp.full(40_000, 9.0))
    sent = work.privatise(huge, jax.random.key(0))
    # All that is left of it is the noise.
    assert float(sent.m.std()) == pytest.approx(noise, rel=0.02)
    assert float(sent.v.std()) == pytest.approx(clip * noise, rel=0.02)
    floor = clip * noise / np.sqrt(3)
    below = algorithms.Moments(jnp.ones(2), jnp.array([-1.0, floor / 2]))
    np.testing.assert_allclose(work.algorithm.reveal(below), 1 / np.sqrt(floor), rtol=1e-6)
    assert federation.work_of(a_run("secadam")).privatise is None


def test_each_client_draws_with_a_generator_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "runs", runs)  # where its code is looked for
    run = replace(a_run("fedavg"), rounds=2, seed=1)
    trained = federation.train(run, None, tmp_path / "results.csv")
    labels = datasets.load("digits").train_labels
    parts = partition.latent_dirichlet(labels, 3, np.random.default_rng(503), 0.5)
    drawn = MinibatchSampler(parts, 8, [503, 504, 505]).draw(3, 1)
    # Two rounds are over: the next draws the minibatches that are attacked.
    _, truth = federation.one_more_step(trained, run)
    assert np.array_equal(truth.labels, labels[drawn.indices[2, :, 0]])


def test_attacks_are_shown_the_ratio_times_the_learning_rate(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "runs", runs)
    guess = replace(a_run("secadam", scaled_ratio=True), rounds=2)
    plain = a_run("secadam")
    trained = federation.train(guess, None, tmp_path / "results.csv")
    before = copy.deepcopy(trained.sampler)
    shown, behind = federation.one_more_step(trained, guess)
    ratio, same = federation.one_more_step(trained._replace(sampler=before), plain)
    assert np.array_equal(behind.images, same.images)
    leaves = (jax.tree.leaves((seen.clients, seen.aggregate)) for seen in (ratio, shown))
    for own, leaf in zip(*leaves, strict=True):
        assert np.abs(own).max() > 0.1
        np.testing.assert_allclose(leaf, 0.001 * own, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, ratio.params, shown.params))


def test_clients_are_attacked_for_their_minibatch_and_the_aggregate_for_every_class():
    todo, state, samples, sampler = little_federation(algorithms.fedavg(client_rate=0.5))
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(todo, state, samples, indices, sampler.weights)
    run = replace(a_run("fedavg"), attack="analytic")
    public = PublicKnowledge(MODELS["softmax"](), (4, 4, 1), 4, todo.algorithm)
    attacked = reconstruction.attack(run, public, seen)
    assert attacked.clients.images.shape == (3, 4, 4, 4, 1)
    assert attacked.aggregate.images.shape == (1, 10, 4, 4, 1)
    assert attacked.aggregate.labels.tolist() == [list(range(10))]


def little_federation(algorithm, clients=3, batch=4, rounds=3, **work):
    """A little federation after some rounds -> (work, state, samples, sampler)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 30, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    model = MODELS["softmax"]()
    losses = sample_losses(model)
    todo = Work(algorithm, losses, pgd.pgd(losses, 0.1), **work)
    params = model.init(jax.random.key(0), samples.take(np.arange(1))[0])
    # One client holds fewer samples than a batch.
    parts = [np.arange(0, 10), np.arange(10, 12), np.arange(12, 30)]
    sampler = MinibatchSampler(parts, batch, range(clients))
    start = engine.start(todo, params, samples, clients, 1, keep_clients=True, seed=5)
    state, _ = start.run(start.state, sampler.draw(rounds, 1))
    return todo, state, samples, sampler


def gradient(todo, params, samples, indices, weights):
    return todo.gradient(params, *samples.take(indices), weights)[1]


def test_clients_that_send_updates_show_their_unhardened_gradient_times_the_rate():
    todo, state, samples, sampler = little_federation(algorithms.fedavg(client_rate=0.5))
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(todo, state, samples, indices, sampler.weights)
    for client in range(3):
        wanted = gradient(todo, state.params, samples, indices[client], sampler.weights[client])
        for got, leaf in zip(jax.tree.leaves(seen.clients), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(got[client], 0.5 * leaf, rtol=1e-4, atol=1e-6)


def test_secadams_aggregate_is_the_ratio_of_means_and_not_the_mean_of_ratios():
    todo, state, samples, sampler = little_federation(algorithms.secadam())
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(todo, state, samples, indices, sampler.weights)
    clients = engine.client_states(state, 3)[0]
    count = int(clients.count[0]) + 1
    moments = []
    for client in range(3):
        g = gradient(todo, state.params, samples, indices[client], sampler.weights[client])
        g, mu, nu = (
            np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(tree)])
            for tree in (
                g,
                jax.tree.map(lambda leaf, own=client: leaf[own], clients.mu),
                jax.tree.map(lambda leaf, own=client: leaf[own], clients.nu),
            )
        )
        m = (0.9 * mu + 0.1 * g) / (1 - 0.9**count)
        v = (0.999 * nu + 0.001 * g**2) / (1 - 0.999**count)
        moments.append((m, v + 1e-16))
    m, v = np.mean(moments, axis=0)
    ratios = np.mean([own_m / np.sqrt(own_v) for own_m, own_v in moments], axis=0)
    aggregate = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(seen.aggregate)])
    np.testing.assert_allclose(aggregate, m / np.sqrt(v), rtol=1e-3, atol=1e-5)
    assert np.abs(aggregate - ratios).max() > 0.05
    one = np.concatenate([np.ravel(leaf[1]) for leaf in jax.tree.leaves(seen.clients)])
    np.testing.assert_allclose(one, moments[1][0] / np.sqrt(moments[1][1]), rtol=1e-3, atol=1e-5)


def test_truth_is_what_the_clients_hold_unturned_and_without_filling():
    todo, state, samples, sampler = little_federation(
        algorithms.fedavg(), augment=augmentation.random_rotation(10.0)
    )
    indices = sampler.draw(1, 1).indices[0, :, 0]
    _, truth = server_view.observe(todo, state, samples, indices, sampler.weights)
    images, labels = samples.take(indices)
    assert np.array_equal(truth.images, images)
    assert np.array_equal(truth.labels, labels)
    assert truth.present.sum(1).tolist() == [4, 2, 4]


def test_what_is_seen_under_dp_is_clipped():
    todo, state, samples, sampler = little_federation(
        algorithms.fedavg(), privatise=clip_and_noise.privatiser(clip=0.01, noise=0.0)
    )
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(todo, state, samples, indices, sampler.weights)
    for client in range(3):
        squares = sum(float((leaf[client] ** 2).sum()) for leaf in jax.tree.leaves(seen.clients))
        assert np.sqrt(squares) == pytest.approx(0.01, rel=1e-4)


def test_what_is_seen_under_dp_has_noise_of_each_clients_own():
    def only_noise(message, key):
        nothing = jax.tree.map(jnp.zeros_like, message)
        return clip_and_noise.privatiser(clip=1.0, noise=1.0)(nothing, key)

    todo, state, samples, sampler = little_federation(algorithms.fedavg(), privatise=only_noise)
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen, _ = server_view.observe(todo, state, samples, indices, sampler.weights)
    noise = np.concatenate([leaf.reshape(3, -1) for leaf in jax.tree.leaves(seen.clients)], axis=1)
    assert noise.std() == pytest.approx(1, rel=0.2)
    assert len(np.unique(noise)) == noise.size


def test_a_window_under_dp_shows_what_is_left_of_each_client_and_of_all():
    # Of gradients nothing is left: what is seen is noise, over the root of the floor.
    algorithm = algorithms.secadam(floor=4.0)

    def only_noise(moments, key):
        nothing = jax.tree.map(jnp.zeros_like, moments)
        return clip_and_noise.moments_privatiser(clip=1.0, noise=1.0)(nothing, key)

    todo, state, samples, sampler = little_federation(algorithm, privatise=only_noise)
    watching = todo._replace(aggregator=server_view.watchful(algorithm, (0, 2)))
    start = engine.start(watching, state.params, samples, 3, 1, keep_clients=True)
    window = server_view.watch(start, 1, iter([sampler.draw(1, 1) for _ in range(4)]))
    own, mean = (
        np.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in jax.tree.leaves(tree)], -1)
        for tree, axes in ((window.clients, 2), (window.aggregate, 1))
    )
    assert own.shape[:2] == (2, 4)
    assert len(np.unique(own)) == own.size
    assert own.std() == pytest.approx(0.5, rel=0.1)
    assert mean.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.1)


def test_published_stale_update_is_the_new_parameters_minus_the_clients_old_ones():
    todo, state, samples, sampler = little_federation(algorithms.fedavg(client_rate=0.5))
    indices, later = (sampler.draw(1, 1).indices[0, :, 0] for _ in range(2))
    seen, truth = server_view.observe_stale(todo, state, samples, indices, later, sampler.weights)
    locals_ = []
    for client in range(3):
        g = gradient(todo, state.params, samples, indices[client], sampler.weights[client])
        locals_.append(jax.tree.map(lambda w, d: w - 0.5 * d, state.params, g))
    new = jax.tree.map(lambda *leaves: sum(leaves) / 3, *locals_)
    for got, w, *own in zip(*map(jax.tree.leaves, (seen.clients, new, *locals_)), strict=True):
        for client in range(3):
            np.testing.assert_allclose(got[client], w - own[client], rtol=1e-3, atol=1e-6)
    assert np.array_equal(truth.labels, samples.take(later)[1])
