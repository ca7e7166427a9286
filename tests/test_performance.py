"""The performance experiment as a user runs it: commands in its folder, files that come out."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import DIES, RUNS, assert_refused

from fl.experiment import results

FOLDER = Path(__file__).parents[1] / "performance"
SMALL = ["--model", "softmax", "--rounds", "6", "--evaluate-every", "3"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A place for compiled code that the commands of these tests share."""
    return tmp_path_factory.mktemp("jax")


@pytest.fixture
def main(tmp_path, kept):
    """Run main.py with a results file of the test's own."""

    def run(*arguments, start=subprocess.run, **settings):
        command = [sys.executable, "main.py", "--results", tmp_path / "results.csv", *arguments]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(kept)}
        return start(
            [str(word) for word in command],
            cwd=FOLDER,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **settings,
        )

    run.results = tmp_path / "results.csv"
    return run


def test_every_combination_gets_a_row_and_its_history(main):
    done = main("-a", "fedavg", "ours", "-s", "0", "1", "--efficient", *SMALL)
    assert done.returncode == 0, done.stderr
    frame = results.read(main.results)
    assert list(zip(frame.algorithm, frame.seed, strict=True)) == [
        ("fedavg", 0),
        ("fedavg", 1),
        ("secadam", 0),
        ("secadam", 1),
    ]
    assert (frame.status == "ok").all()
    assert frame.final_accuracy.between(0.05, 1).all()
    assert frame.final_accuracy.nunique() > 1
    history = results.read(results.history_path(main.results))
    assert history["round"].tolist() == [3, 6] * 4
    last = history[history["round"] == 6]
    assert last.accuracy.tolist() == frame.final_accuracy.tolist()


def test_published_command_line_runs_unchanged(main):
    words = "-b 16 -d digits -m softmax -n 4 -s 1 -r 3 -e 2 -a oursfedadam -i --efficient"
    done = main(*words.split())
    assert done.returncode == 0, done.stderr
    (row,) = results.read(main.results).to_dict("records")
    assert row["batch_size"] == 16
    assert row["clients"] == 4
    assert row["local_steps"] == 2
    assert row["algorithm"] == "secadam_fedadam"
    assert row["partition"] == "iid"


def test_published_long_flags_run_unchanged(main):
    words = "--num-clients 4 --epochs 1 --aggregation sgd --convergence 0.2 --rounds 50"
    done = main(*words.split(), "--model", "softmax")
    assert done.returncode == 0, done.stderr
    (row,) = results.read(main.results).to_dict("records")
    assert row["convergence"] == 0.2
    assert 1 <= row["rounds_to_convergence"] <= 50
    assert row["final_accuracy"] >= 0.2


def test_secure_algorithms_run_under_the_protocol(main):
    done = main("-a", "secagg", "fedavg", *SMALL, "--drop-out", "0.1", "--neighbours", "8")
    assert done.returncode == 0, done.stderr
    secure, clear = results.read(main.results).to_dict("records")
    assert (secure["aggregation"], clear["aggregation"]) == ("protocol", "clear")
    assert secure["overrides"] == "drop_out=0.1 neighbours=8"
    assert secure["sent_bytes"] > 8 * 2570 / 2, "half of the clients send their vectors"
    assert secure["dropped"] > 0
    assert f"final accuracy {secure['final_accuracy']:.4f}; {secure['dropped']:.0f} drop-outs" in (
        done.stdout
    )
    assert np.isnan(clear["sent_bytes"])
    assert np.isnan(clear["overrides"]) or clear["overrides"] is None


def test_step_budget_fixes_the_rounds(main):
    done = main("--local-steps", "2", "3", "--step-budget", "6", "--model", "softmax")
    assert done.returncode == 0, done.stderr
    assert results.read(main.results)["rounds"].tolist() == [3, 2]


def test_overrides_are_recorded_and_change_the_run(main):
    main(*SMALL)
    main(*SMALL, "--hardening", "none", "--client-rate", "0.01")
    frame = results.read(main.results)
    assert frame.overrides.tolist()[1] == "hardening=none client_rate=0.01"
    assert frame.overrides.isna().tolist() == [True, False]
    assert frame.final_accuracy[0] != frame.final_accuracy[1]


def test_as_published_is_marked_and_leaves_the_last_minibatch_out(main):
    # 360 test samples at batch size 32: the published code evaluates 352 of them.
    main(*SMALL, "--as-published")
    (row,) = results.read(main.results).to_dict("records")
    assert row["variant"] == "published"
    assert (row["final_accuracy"] * 352) == pytest.approx(round(row["final_accuracy"] * 352))


def test_runs_that_are_there_are_skipped_and_counted(main):
    main("-s", "0", *SMALL)
    again = main("-s", "0", "1", "--skip-done", *SMALL)
    assert "1 of 2 runs are already in" in again.stdout
    assert results.read(main.results)["hardware"][0] in again.stdout
    assert results.read(main.results)["seed"].tolist() == [0, 1]


def test_killed_run_started_again_gives_the_same_bits(tmp_path):
    killed, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"

    def run(path, before=""):
        words = ["--rounds", "60", "--model", "softmax", "--evaluate-every", "20", "-n", "3"]
        command = [sys.executable, "-c", before + RUNS, "--results", path, *words, "-b", "4"]
        return subprocess.run(command, cwd=FOLDER, stderr=subprocess.DEVNULL).returncode

    assert run(killed, DIES) == -signal.SIGKILL
    assert not killed.exists()
    assert len(list(tmp_path.glob(".checkpoints/*.npz"))) == 1
    assert run(killed) == run(whole) == 0
    same = ["round", "accuracy", "loss"]
    histories = [results.read(results.history_path(path))[same] for path in (killed, whole)]
    assert histories[0].equals(histories[1])
    assert not list(tmp_path.glob(".checkpoints/*.npz"))


def test_loss_that_is_no_number_is_recorded_and_the_grid_goes_on(main):
    done = main("-a", "fedavg", "adam", "--client-rate", "1e37", *SMALL)
    assert done.returncode == 0, done.stderr
    frame = results.read(main.results)
    assert frame.algorithm.tolist() == ["fedavg", "adam"]
    assert frame.status[0] == "diverged"
    assert frame.final_accuracy.isna()[0]


REFUSED = {
    "-d imagenet": "choose from digits, fashion_mnist, cifar10, svhn_cropped",
    "-m vgg": "choose from softmax, lenet, cnn1, cnn2",
    "-a fedsgd": "choose from fedavg, adam, fedadam, secagg, secadam, secadam_fedadam, fedprox",
    "-a secagg -n 1": "at least two clients",
    "-a secadam --neighbours 5": "argument --neighbours: needs auto, all or an even number",
    "-a secadam --neighbours 10": "argument --neighbours: each of 10 clients",
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
    "--results /no/such/folder/results.csv": "/no/such/folder",
}


def test_wrong_options_exit_with_a_sentence_that_names_them(tmp_path):
    assert_refused(FOLDER, tmp_path / "results.csv", REFUSED)


def test_absent_data_say_what_to_run_and_the_grid_goes_on(main, tmp_path):
    done = main("-d", "cifar10", "digits", "--data-dir", tmp_path, *SMALL)
    assert done.returncode == 1
    assert "python -m fl.data prepare cifar10" in done.stderr
    assert "Traceback" not in done.stderr
    assert results.read(main.results)["dataset"].tolist() == ["digits"]


def test_results_file_with_other_columns_is_left_as_it_is(main):
    main.results.write_text("my,own,notes\n1,2,3\n")
    done = main(*SMALL)
    assert done.returncode == 2
    assert "--results" in done.stderr
    assert "Traceback" not in done.stderr
    assert main.results.read_text() == "my,own,notes\n1,2,3\n"


def test_results_file_that_was_cut_off_keeps_all_it_has(main):
    main("-s", "0", *SMALL)
    before = main.results.read_bytes()
    main.results.write_bytes(before[:-9])
    done = main("-s", "1", "--skip-done", *SMALL)
    assert done.returncode == 0, done.stderr
    assert main.results.read_bytes().startswith(before[:-9] + b"\n")
    with pytest.warns(UserWarning, match="cut off"):
        assert results.read(main.results)["seed"].tolist() == [1]


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
