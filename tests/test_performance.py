"""The performance experiment as a user runs it: commands in its folder, files that come out."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from programs import DIES, RUNS, assert_refused, outcomes

from fl.experiment import results
from fl.experiment.departures import Departures
from fl.simulation.models import MODELS

federation, runs = load("performance", "federation", "runs")
CORRECTED, RESTORED = Departures(), Departures.of(runs.DEPARTURES)

FOLDER = Path(__file__).parents[1] / "performance"
SMALL = "--model softmax --rounds 6 --evaluate-every 3"
COMMANDS = {
    "grid": f"-a fedavg ours -s 0 1 --efficient {SMALL}",
    "short": "-b 16 -d digits -m softmax -n 4 -s 1 -r 3 -e 2 -a oursfedadam -i --efficient",
    "long": "--num-clients 4 --epochs 1 --aggregation sgd --convergence 0.2 --rounds 50 "
    "--model softmax",
    "secure": f"-a secagg fedavg {SMALL} --drop-out 0.1 --neighbours 8",
    "insecure": f"-a secadam secagg {SMALL} -r 2 --neighbours 4 --insecure-neighbours",
    "masked": f"-a secadam {SMALL} -r 2 --ratio masked",
    "budget": "--local-steps 2 3 --step-budget 6 --model softmax",
    "plain": f"-a fedavg {SMALL}",
    "overridden": f"-a fedavg {SMALL} --hardening none --client-rate 0.01",
    "published": f"{SMALL} --as-published",
    "again": f"-a fedavg -s 0 1 --skip-done {SMALL}",
    "diverged": f"-a fedavg adam --client-rate 1e37 {SMALL}",
    "absent": f"-d cifar10 digits --data-dir FOLDER {SMALL}",
    "foreign": SMALL,
    "some": f"-a secadam secagg {SMALL} --participation 0.3",
    "everybody": f"-a fedavg {SMALL} --participation 1",
}
# Where a command finds the results of another one.
RESULTS = {"overridden": "plain", "again": "plain"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What came of every command, by its name. All ran in one process: starting one takes long."""
    folder = tmp_path_factory.mktemp("performance")
    (folder / "foreign.csv").write_text("my,own,notes\n1,2,3\n")
    paths = {name: folder / f"{RESULTS.get(name, name)}.csv" for name in COMMANDS}
    words = {
        name: f"--results {paths[name]} {command.replace('FOLDER', str(folder))}"
        for name, command in COMMANDS.items()
    }
    found = outcomes(FOLDER, folder / "none.csv", list(words.values()))
    return {
        name: SimpleNamespace(status=found[line][0], said=found[line][1], path=paths[name])
        for name, line in words.items()
    }


def frame(session, name):
    done = session[name]
    assert done.status == 0, done.said
    return results.read(done.path)


def test_clients_that_take_part_form_the_round(session):
    rows = frame(session, "some")
    assert rows["overrides"].tolist() == ["participation=0.3"] * 2
    assert (rows["status"] == "ok").all()
    # A client of three shares secrets with two others, one of ten with nine.
    more = frame(session, "masked")["sent_bytes"].iloc[0]
    assert 0 < rows["sent_bytes"].iloc[1] < more


def test_participation_of_1_is_the_run_without_the_option(session):
    one, other = frame(session, "everybody"), frame(session, "plain")
    other = other[other["overrides"].isna()]
    assert one["overrides"].isna().all()
    assert one["final_accuracy"].tolist() == other["final_accuracy"].tolist()[:1]
    histories = [
        results.read(results.history_path(session[name].path)) for name in ("everybody", "plain")
    ]
    losses = [each[each["overrides"].isna()]["loss"].tolist()[:2] for each in histories]
    assert losses[0] == losses[1]


def test_every_combination_gets_a_row_and_its_history(session):
    rows = frame(session, "grid")
    assert list(zip(rows.algorithm, rows.seed, strict=True)) == [
        ("fedavg", 0),
        ("fedavg", 1),
        ("secadam", 0),
        ("secadam", 1),
    ]
    assert (rows.status == "ok").all()
    assert rows.final_accuracy.between(0.05, 1).all()
    assert rows.final_accuracy.nunique() > 1
    history = results.read(results.history_path(session["grid"].path))
    assert history["round"].tolist() == [3, 6] * 4
    last = history[history["round"] == 6]
    assert last.accuracy.tolist() == rows.final_accuracy.tolist()


def test_published_command_line_runs_unchanged(session):
    (row,) = frame(session, "short").to_dict("records")
    assert row["batch_size"] == 16
    assert row["clients"] == 4
    assert row["local_steps"] == 2
    assert row["algorithm"] == "secadam_fedadam"
    assert row["partition"] == "iid"


def test_published_long_flags_run_unchanged(session):
    (row,) = frame(session, "long").to_dict("records")
    assert row["convergence"] == 0.2
    assert 1 <= row["rounds_to_convergence"] <= 50
    assert row["final_accuracy"] >= 0.2


def test_secure_algorithms_run_under_the_protocol(session):
    secure, clear = frame(session, "secure").to_dict("records")
    assert (secure["aggregation"], clear["aggregation"]) == ("protocol", "clear")
    assert secure["overrides"] == "drop_out=0.1 neighbours=8"
    assert secure["sent_bytes"] > 8 * 2570 / 2, "half of the clients send their vectors"
    assert secure["dropped"] > 0
    said = f"final accuracy {secure['final_accuracy']:.4f}; {secure['dropped']:.0f} drop-outs"
    assert said in session["secure"].said
    assert np.isnan(clear["sent_bytes"])
    assert np.isnan(clear["overrides"]) or clear["overrides"] is None


def test_who_forms_the_ratio_is_in_the_row(session):
    (masked,) = frame(session, "masked").to_dict("records")
    secadam, secagg = frame(session, "insecure").to_dict("records")
    assert (masked["ratio"], secadam["ratio"]) == ("masked", "committee")
    assert np.isnan(secagg["ratio"])
    assert masked["received_bytes"] < 8 * 2570 < secadam["received_bytes"]


def test_how_likely_neighbours_leak_is_said_and_in_the_row(session):
    assert frame(session, "insecure")["leak_bound"].tolist() == [1, 1]
    assert frame(session, "masked")["leak_bound"].tolist() == [0]
    assert "a cheating server may learn more than one sum with" in session["insecure"].said


def test_step_budget_fixes_the_rounds(session):
    assert frame(session, "budget")["rounds"].tolist() == [3, 2]


def test_overrides_are_recorded_and_change_the_run(session):
    rows = frame(session, "overridden")
    assert rows.overrides.isna().tolist() == [True, False, True]
    assert rows.overrides[1] == "hardening=none client_rate=0.01"
    assert rows.final_accuracy[0] != rows.final_accuracy[1]


def test_as_published_is_marked_and_leaves_the_last_minibatch_out(session):
    # 360 test samples at batch size 32: the published code evaluates 352 of them.
    (row,) = frame(session, "published").to_dict("records")
    assert row["variant"] == "published"
    assert (row["final_accuracy"] * 352) == pytest.approx(round(row["final_accuracy"] * 352))


def test_runs_that_are_there_are_skipped_and_counted(session):
    rows, said = frame(session, "again"), session["again"].said
    assert "1 of 2 runs are already in" in said
    assert rows["hardware"][0] in said
    assert rows["seed"].tolist() == [0, 0, 1]


def test_killed_run_started_again_gives_the_same_bits(tmp_path):
    killed, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"

    def run(path, before=""):
        words = ["--rounds", "60", "--model", "softmax", "--evaluate-every", "20", "-n", "3"]
        command = [sys.executable, "-c", before + RUNS, "--results", path, *words, "-b", "4"]
        return subprocess.run(command, cwd=FOLDER, stderr=subprocess.DEVNULL).returncode

    assert run(killed, DIES) == -signal.SIGKILL
    assert not killed.exists()
    assert len(list(tmp_path.glob(".checkpoints/*"))) == 1
    assert run(killed) == run(whole) == 0
    same = ["round", "accuracy", "loss"]
    histories = [results.read(results.history_path(path))[same] for path in (killed, whole)]
    assert histories[0].equals(histories[1])
    assert not list(tmp_path.glob(".checkpoints/*"))


def test_loss_that_is_no_number_is_recorded_and_the_grid_goes_on(session):
    rows = frame(session, "diverged")
    assert rows.algorithm.tolist() == ["fedavg", "adam"]
    assert rows.status[0] == "diverged"
    assert rows.final_accuracy.isna()[0]


REFUSED = {
    "--as-published=radius": "choose from moments, pgd-step, clipped-loss, last-batch",
    "-d imagenet": "choose from digits, fashion_mnist, cifar10, svhn_cropped",
    "-m vgg": "choose from softmax, lenet, cnn1, cnn2",
    "-a fedsgd": "choose from fedavg, adam, fedadam, secagg, secadam, secadam_fedadam, fedprox",
    "-a secagg -n 1": "at least two clients",
    "-a secagg --participation 0.1": "at least two clients in a round",
    "--participation 1.5": "argument --participation: needs a number above 0 and at most 1",
    "--participation 0": "argument --participation: needs a number above 0 and at most 1",
    "-a secagg --coordinator a:1": "argument --coordinator: under secure aggregation one process",
    "--mapping pmap": "argument --mapping: unknown 'pmap': choose from auto, loop, vmap, sharded",
    "-a secadam --mapping vmap": "argument --mapping: vmap: under secure aggregation",
    "-a secadam --neighbours 5": "argument --neighbours: needs auto, all or an even number",
    "-a secadam --neighbours 10": "argument --neighbours: each of 10 clients",
    "-a secadam -n 100 --neighbours 10": "one sum with a probability of up to 1 a round",
    "-a secagg -n 1000 --neighbours 134": "of up to 1.3e-05 a round, above 2^-20: choose auto",
    "-a secagg --neighbours auto --insecure-neighbours": "argument --insecure-neighbours: it is",
    "-a secagg --ratio masked": "argument --ratio: no run forms a ratio under secure",
    "-a secadam --ratio masked --efficient": "argument --ratio: no run forms a ratio under secure",
    "-a secadam --ratio both": "argument --ratio: ",
    "-a secadam --neighbours 4 --efficient": "argument --neighbours: no run is under secure",
    "-a fedavg --drop-out 0.1": "argument --drop-out: no run is under secure",
    "-a secagg --drop-out 1": "argument --drop-out",
    "-a secagg --drop-out -0.1": "argument --drop-out",
    "-n 2000": "--num-clients",
    "-n 0": "--num-clients",
    "-b 0": "--batch-size",
    "-b 1.5": "--batch-size",
    "-r 0": "--rounds",
    "-e 0": "--epochs",
    "--client-rate -0.1": "--client-rate",
    "--server-rate 0": "--server-rate",
    "--pgd-step -1": "--pgd-step",
    "--alpha 0": "--alpha",
    "--alpha -1": "--alpha",
    "--alpha nan": "--alpha",
    "-n 100 --alpha 0.001": "--alpha",
    "--convergence 1.01": "--convergence",
    "--local-steps 5 --step-budget 4": "--step-budget",
    "--list --step-budget 1 -e 2": "argument --step-budget",
    "--results /no/such/folder/results.csv": "/no/such/folder",
}


def test_wrong_options_exit_with_a_sentence_that_names_them(tmp_path):
    assert_refused(FOLDER, tmp_path / "results.csv", REFUSED)


def test_absent_data_say_what_to_run_and_the_grid_goes_on(session):
    done = session["absent"]
    assert done.status == 1
    assert "python -m fl.data prepare cifar10" in done.said
    assert "Traceback" not in done.said
    assert results.read(done.path)["dataset"].tolist() == ["digits"]


def test_results_file_with_other_columns_is_left_as_it_is(session):
    done = session["foreign"]
    assert done.status == 2
    assert "--results" in done.said
    assert "Traceback" not in done.said
    assert done.path.read_text() == "my,own,notes\n1,2,3\n"


def test_results_file_that_was_cut_off_keeps_all_it_has(session, tmp_path):
    path = tmp_path / "results.csv"
    whole = session["published"].path.read_bytes()
    path.write_bytes(whole[:-9])
    ((status, said),) = outcomes(FOLDER, path, [f"-s 1 --skip-done {SMALL}"]).values()
    assert status == 0, said
    assert path.read_bytes().startswith(whole[:-9] + b"\n")
    with pytest.warns(UserWarning, match="cut off"):
        assert results.read(path)["seed"].tolist() == [1]


def work(algorithm, departures=CORRECTED, **overrides):
    return federation.work("softmax", algorithm, 1, departures, runs.Overrides(**overrides))


@pytest.mark.parametrize(
    ("of", "step"),
    [
        (work("fedavg"), 0.001),
        (work("secadam"), 1e-5),
        (work("adam", client_rate=0.2), 0.002),
        (work("secadam", pgd_step=0.03), 0.03),
        (work("fedavg", hardening="none"), 0),
        (work("adam", RESTORED), 0.001),
        (work("secadam_fedadam", RESTORED), 1e-6),
        (work("secadam", RESTORED, pgd_step=0.03), 0.03),
    ],
)
def test_minibatches_are_hardened_by_one_percent_of_the_rate_or_as_published(of, step):
    params = MODELS["softmax"]().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    images = jnp.full((2, 4, 4, 1), 1e-3)
    moved = jnp.abs(of.harden(params, images, jnp.array([1, 2])) - images)
    np.testing.assert_allclose(moved.max(), step, rtol=1e-2)


@pytest.mark.parametrize(
    ("departures", "offset"), [(CORRECTED, 1e-16), (Departures(moments=True), 1e-9)]
)
def test_what_is_added_to_second_moments_is_the_variants(departures, offset):
    algorithm, w = work("secadam", departures).algorithm, jnp.zeros(2)
    received = algorithm.broadcast(w, algorithm.init_server(w))
    message, _ = algorithm.message(
        received, *algorithm.local_step(received, w, algorithm.init_client(w), w)
    )
    np.testing.assert_allclose(message.v, offset, rtol=1e-5)


def test_experiment_script_explains_itself_and_refuses_what_it_does_not_know():
    explained = subprocess.run(
        ["bash", "experiment.sh", "--help"], cwd=FOLDER, capture_output=True, text=True
    )
    assert explained.returncode == 0
    assert "--quick" in explained.stdout
    refused = subprocess.run(
        ["bash", "experiment.sh", "--quik"], cwd=FOLDER, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "--quik" in refused.stderr
