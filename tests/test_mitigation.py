"""The mitigation experiment as a user runs it: commands in its folder, files that come out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from programs import assert_refused

sys.path.insert(0, str(Path(__file__).parents[1] / "mitigation"))  # a folder of scripts

import recovery

from fl.experiment import results
from fl.simulation.run import Evaluation

FOLDER = Path(recovery.__file__).parent
SMALL = ["-m", "softmax", "-n", "10", "-b", "16", "-r", "12", "--start-round", "5"]
SMALL += ["--evaluate-every", "4", "--smoothed-models", "20"]
ATTACKS = ["none", "continuous", "one_shot"]
# With 20 models Hoeffding's margin leaves little to certify.
LAX = ["--error", "0.4"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A place for compiled code that the commands of these tests share."""
    return tmp_path_factory.mktemp("jax")


def python(kept, *words, **settings):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=FOLDER,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(kept)},
        text=True,
        capture_output=True,
        **settings,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, kept):
    """All attacks on two defences, one of which has two eps that bind nothing."""
    path = tmp_path_factory.mktemp("whole") / "results.csv"
    grid = ["--attack", *ATTACKS, "--defence", "none", "pgd", "--eps", "0.001", "0.5"]
    done = python(kept, "main.py", "--results", path, *grid, *SMALL, *LAX)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(
        path=path,
        done=done,
        frame=results.read(path),
        history=results.read(results.history_path(path)),
        curves=results.read(results.curves_path(path)),
    )


def of(frame, **values):
    return frame[results.matches(frame, values)]


def test_every_combination_gets_a_row(whole):
    found = whole.frame[["defence", "eps", "attack"]].fillna(-1).to_records(index=False).tolist()
    wanted = [("none", -1.0, attack) for attack in ATTACKS]
    wanted += [("pgd", eps, attack) for attack in ATTACKS for eps in (0.001, 0.5)]
    assert sorted(found) == sorted(wanted)
    assert (whole.frame.status == "ok").all()
    attacked = whole.frame[whole.frame.attack != "none"]
    assert attacked.adversaries.tolist() == [3 if a == "continuous" else 1 for a in attacked.attack]
    for column in ("final_accuracy", "first_asr", "final_asr", "certified_accuracy"):
        assert attacked[column].between(0, 1).all()
    clean = whole.frame[whole.frame.attack == "none"]
    unknown = clean[["first_asr", "certified_accuracy", "recovery_rounds", "delta"]]
    assert unknown.isna().all(axis=None)


def test_history_leads_to_the_row(whole):
    for row in whole.frame.to_dict("records"):
        run = of(whole.history, attack=row["attack"], defence=row["defence"], eps=row["eps"])
        last = run[run["round"] == 12].iloc[0]
        assert last.accuracy == row["final_accuracy"]
        assert last.asr == row["final_asr"]
        if row["attack"] != "none":
            assert run[run["round"] == 6].asr.tolist() == [row["first_asr"]]
        assert {4, 8, 12} <= set(run["round"])


def test_rounds_before_the_attack_are_those_without_one(whole):
    clean = of(whole.history, attack="none", defence="none")
    for attack in ATTACKS[1:]:
        attacked = of(whole.history, attack=attack, defence="none")
        both = clean.merge(attacked, on="round")
        before = both[both["round"] <= 5]
        assert len(before) == 2
        assert (before.accuracy_x == before.accuracy_y).all()
        assert (before.loss_x == before.loss_y).all()
        after = both[both["round"] > 5]
        assert (after.loss_x != after.loss_y).all()


def test_eps_that_binds_nothing_shares_the_training_and_moves_delta(whole):
    pair = of(whole.frame, attack="continuous", defence="pgd").sort_values("eps")
    assert pair.final_accuracy.nunique() == pair.train_s.nunique() == 1
    assert pair.delta.tolist() == [0.001, 0.5]
    low, high = pair.certified_accuracy
    assert low >= high


def test_curves_fall_from_radius_zero_to_nothing(whole):
    for attack in ATTACKS[1:]:
        row = of(whole.frame, attack=attack, defence="none").iloc[0]
        curve = of(whole.curves, attack=attack, defence="none").sort_values("radius")
        assert curve.radius.iloc[0] == 0
        assert (curve.certified_accuracy.diff().dropna() <= 0).all()
        assert curve.certified_accuracy.iloc[0] <= 1 - row["abstained"] + 1e-9
        assert curve.certified_accuracy.iloc[-1] == 0
    assert "none" not in set(whole.curves.attack)


def test_checkpoints_are_gone_in_the_end(whole):
    folder = whole.path.parent / ".checkpoints"
    assert not folder.exists() or not list(folder.iterdir())


def test_runs_that_are_there_are_skipped(whole, kept):
    grid = ["--attack", *ATTACKS, "--skip-done"]
    done = python(kept, "main.py", "--results", whole.path, *grid, *SMALL, *LAX)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs are already in" in done.stdout


INTERRUPTED = """
import json, sys
sys.path.insert(0, ".")
import fl.simulation.run, main, smoothing, stages
fl.simulation.run.CHECKPOINT_EVERY = 0.0
stage, train, vote, run = {stage!r}, fl.simulation.run.train, smoothing.vote, 0
rounds = []

def watched(federation, *arguments, **options):
    global run
    run += 1
    if run == stage:
        raise KeyboardInterrupt
    def counted(state, schedule):
        rounds.append(len(schedule.indices))
        return federation.run(state, schedule)
    return train(federation._replace(run=counted), *arguments, **options)

fl.simulation.run.train = watched
sys.argv[1:] = {words!r}
status = main.main()
print(json.dumps([status, sum(rounds)]))
"""


def interrupted(kept, stage, words):
    """Run until a stage begins, and not further -> (exit status, rounds computed)."""
    code = INTERRUPTED.format(stage=stage, words=list(map(str, words)))
    done = python(kept, "-c", code)
    assert done.stdout, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_interrupted_run_goes_on_where_it_was(whole, kept, tmp_path):
    path = tmp_path / "results.csv"
    words = ["--results", path, "--attack", "continuous", *SMALL, *LAX]
    # Five rounds before the attack, one attacked, two up to the next evaluation, four to the end.
    assert interrupted(kept, 4, words) == (130, 8)
    assert interrupted(kept, None, words) == (0, 4)
    again = results.read(path).iloc[0]
    row = of(whole.frame, attack="continuous", defence="none").iloc[0]
    for column in ("final_accuracy", "first_asr", "final_asr", "certified_accuracy", "abstained"):
        assert again[column] == row[column]


def test_published_command_line_runs_unchanged(kept, tmp_path):
    path = tmp_path / "results.csv"
    words = "-b 16 -d digits -m softmax -n 10 -r 6 -s 1 -e 2 --start-round 4 --hardening pgd"
    words += " --eps 0.2 --noise-clip --one-shot --as-published --smoothed-models 10"
    done = python(kept, "main.py", "--results", path, *words.split())
    assert done.returncode == 0, done.stderr
    (row,) = results.read(path).to_dict("records")
    assert row["attack"] == "one_shot"
    assert row["defence"] == "noise_clip+pgd"
    assert (row["eps"], row["delta"], row["local_steps"], row["seed"]) == (0.2, 0.2, 2, 1)
    assert row["variant"] == "published"
    assert row["abstained"] == 0
    # 360 test samples at batch size 16: the published code evaluates 352 of them.
    assert row["final_accuracy"] * 352 == pytest.approx(round(row["final_accuracy"] * 352))


DEFENCES = "median trimmed_mean multi_krum norm_bounding geometric_median foolsgold flip"


def test_every_other_defence_runs(kept, tmp_path):
    path = tmp_path / "results.csv"
    words = ["--defence", *DEFENCES.split(), *SMALL, "-r", "6", "--attack", "one_shot"]
    done = python(kept, "main.py", "--results", path, *words)
    assert done.returncode == 0, done.stderr
    frame = results.read(path)
    assert frame.defence.tolist() == DEFENCES.split()
    assert frame.loc[frame.defence != "flip", "first_asr"].max() < 0.5


REFUSED = {
    "--start-round 12": "argument --start-round: 12 rounds before the attack leave none",
    "--adversaries 11": "argument --adversaries: 11 of 10 clients",
    "-n 1": "argument -n/--num-clients: 30% of 1 clients",
    "--defence multi_krum --tolerated 4": "argument --defence: Multi-Krum against 4 adversaries "
    "needs at least 11 clients, got 10, see --tolerated",
    "--defence trimmed_mean --tolerated 5": "argument --defence: a trimmed mean",
    "--eps -0.1": "argument --eps: needs a number of at least 0",
    "--delta nan": "argument --delta",
    "--error 1": "argument --error",
    "--defence pgd+flip": "argument --defence: pgd and flip: only one hardening",
    "--defence magic": "argument --defence: unknown 'magic'",
    "--defence pgd --hardening flip": "argument --hardening: pgd and flip",
    "--attack two_shots": "argument --attack: unknown 'two_shots'",
}


def test_wrong_options_exit_with_a_sentence_that_names_them(tmp_path):
    refused = {" ".join([*SMALL, words]): sentence for words, sentence in REFUSED.items()}
    assert_refused(FOLDER, tmp_path / "results.csv", refused)


def test_data_sets_that_cannot_be_attacked_are_refused(kept, tmp_path):
    cache = tmp_path / "fl_cache"
    cache.mkdir()
    images, classes = (
        np.zeros((40, 28, 28, 1), np.uint8),
        np.resize(np.arange(4), 40).astype(np.int32),
    )
    arrays = {"train_images": images, "train_labels": classes}
    arrays |= {"test_images": images, "test_labels": classes}
    np.savez(cache / "fashion_mnist.npz", **arrays)
    words = ["-d", "fashion_mnist", "--data-dir", tmp_path, *SMALL]
    done = python(kept, "main.py", "--results", tmp_path / "results.csv", *words)
    assert done.returncode == 2
    assert "argument -d/--dataset: " in done.stderr
    assert "no training image of class 7" in done.stderr
    assert "Traceback" not in done.stderr


def history(*asr, start=10):
    """Evaluations of every round after the one before the attack."""
    return [Evaluation(start + number, 0.1, {"asr": value}) for number, value in enumerate(asr)]


@pytest.mark.parametrize(
    ("asr", "expected"),
    [
        ((0.0, 0.005), 0),  # it never took
        ((0.0, 0.01), 0),
        ((0.0, 0.9, 0.5, 0.011, 0.01, 0.3), 3),
        ((0.0, *[0.9] * 10), 9),  # of 20 rounds, 9 are left after the attacked one
    ],
)
def test_recovery_counts_rounds_with_the_backdoor_after_the_attack(asr, expected):
    cell = {"attack": "one_shot", "start_round": 10, "rounds": 20}
    assert recovery.recovery_rounds(cell, history(*asr)) == expected
    assert recovery.first_asr(cell, history(*asr)) == asr[1]


def test_there_is_no_recovering_from_a_lasting_attack_or_from_none():
    cell = {"attack": "continuous", "start_round": 10, "rounds": 20}
    assert recovery.recovery_rounds(cell, history(0.0, 0.9, 0.9)) == 0
    assert recovery.recovery_rounds(cell | {"attack": "none"}, history(0.0, 0.0)) is None
    assert recovery.first_asr(cell | {"attack": "none"}, history(0.0, 0.0)) is None
