"""The mitigation experiment as a user runs it: commands in its folder, files that come out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from experiments import load
from programs import assert_refused

from fl.experiment import results

federation, main, options = load("mitigation", "federation", "main", "options")

FOLDER = Path(__file__).parents[1] / "mitigation"
SMALL = "-m softmax -n 10 -b 16 -r 12 --start-round 5 --evaluate-every 4 --smoothed-models 20"
# With 20 models Hoeffding's margin leaves little to certify.
LAX = "--error 0.4"
ATTACKS = ["none", "continuous", "one_shot"]
ROBUST = "median trimmed_mean multi_krum norm_bounding geometric_median foolsgold"
COMMANDS = {
    # Two eps of PGD that bind nothing.
    "whole": f"{SMALL} {LAX} --attack {' '.join(ATTACKS)} --defence none pgd --eps 0.001 0.5",
    # Where one shot is enough.
    "defended": f"{SMALL} -a fedavg -r 31 --start-round 30 --attack one_shot "
    f"--defence none noise_clip {ROBUST} flip",
    "published": "-b 16 -m softmax -n 10 -r 6 -s 1 -e 2 --start-round 4 --hardening pgd --eps 0.2 "
    "--noise-clip --one-shot --as-published --smoothed-models 10",
    "toys": f"{SMALL} -a fedavg --attack none sign_flip --defence none no_step",
    "unattackable": f"{SMALL} -d fashion_mnist --data-dir DATA",
    "interrupted": f"{SMALL} {LAX}",
    "resumed": f"{SMALL} {LAX}",
    "some": f"{SMALL} {LAX} --participation 0.5",
    "skipped": f"{SMALL} {LAX} --attack {' '.join(ATTACKS)} --skip-done",
}
# Where a command finds the results of another one.
RESULTS = {"resumed": "interrupted", "skipped": "whole"}
# The command is interrupted where its fourth stretch of rounds would begin: five rounds before the
# attack, one attacked, two up to the next evaluation, four to the end.
STOPS = {"interrupted": 4}

# A new attack and a new defence are an entry each: all else is found there.
TOYS = """
import jax
from attacks import ATTACKS, Attack, Stage
from defences import DEFENCES, GUARD, Defence

ATTACKS["sign_flip"] = Attack(
    title="flipped signs",
    stages=(Stage(attacked=True, rounds=1), Stage(attacked=True)),
    adversaries=lambda clients: clients - 1,
    sizes=lambda dataset, batch_size: (batch_size, 0),
    deviate=lambda clients: flipped,
    certifies=False,
)
DEFENCES["no_step"] = Defence("No step", GUARD, lambda setting: nowhere)

def flipped(message, state, before):
    return jax.tree.map(lambda leaf: -leaf, message), state

def nowhere(step, key):
    return jax.tree.map(lambda leaf: 0 * leaf, step)
"""
# All in one process: starting one and compiling take longer than these runs.
SESSION = """
import contextlib, io, json, sys
sys.path.insert(0, ".")
from fl.simulation import keeping, run

train, stretches, rounds, stop = run.train, 0, 0, None

def watched(federation, *arguments, **options):
    global stretches, rounds
    stretches += 1
    if stretches == stop:
        raise KeyboardInterrupt
    def counted(state, schedule):
        global rounds
        rounds += len(schedule.indices)
        return federation.run(state, schedule)
    return train(federation._replace(run=counted), *arguments, **options)

run.train = watched
TOYS
import main

found = {}
for name, words, stop in json.load(sys.stdin):
    keeping.CHECKPOINT_EVERY = 0.0 if stop else 60.0
    stretches = rounds = 0
    sys.argv[1:] = words
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main.main()
        except SystemExit as error:
            status = error.code
    said = {"out": out.getvalue(), "err": err.getvalue()}
    found[name] = {"status": status, "rounds": rounds, **said}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What came of every command, by its name."""
    folder = tmp_path_factory.mktemp("mitigation")
    write_unattackable_data(folder / "fl_cache")
    paths = {name: folder / f"{RESULTS.get(name, name)}.csv" for name in COMMANDS}
    commands = [
        (name, ["--results", str(paths[name]), *words.replace("DATA", str(folder)).split()])
        for name, words in COMMANDS.items()
    ]
    given = [(*command, STOPS.get(command[0])) for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", SESSION.replace("TOYS", TOYS)],
        input=json.dumps(given),
        cwd=FOLDER,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax")},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: SimpleNamespace(path=paths[name], **of) for name, of in found.items()}


def write_unattackable_data(cache):
    """A data set of Fashion-MNIST's shape that lacks the class that is attacked."""
    cache.mkdir()
    images, labels = np.zeros((40, 28, 28, 1), np.uint8), np.resize(np.arange(4), 40)
    arrays = {f"{part}_images": images for part in ("train", "test")}
    arrays |= {f"{part}_labels": labels.astype(np.int32) for part in ("train", "test")}
    np.savez(cache / "fashion_mnist.npz", **arrays)


def frame(session, name):
    done = session[name]
    assert done.status == 0, done.err
    return results.read(done.path)


def of(frame, **values):
    return frame[results.matches(frame, values)]


@pytest.fixture(scope="module")
def whole(session):
    path = session["whole"].path
    return SimpleNamespace(
        frame=frame(session, "whole"),
        history=results.read(results.history_path(path)),
        curves=results.read(results.curves_path(path)),
    )


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


def test_attacks_succeed_where_nothing_is_done_against_them(whole):
    undefended = of(whole.frame, defence="none").set_index("attack")
    assert undefended.final_asr["none"] < 0.01
    assert undefended.final_asr["continuous"] > 0.2
    assert undefended.first_asr["one_shot"] > 0.1


def test_one_shot_attacks_are_watched_until_the_model_recovers(whole):
    row = of(whole.frame, attack="one_shot", defence="none").iloc[0]
    rounds = of(whole.history, attack="one_shot", defence="none")
    after = rounds[rounds["round"] >= 6]
    above = after[after.asr > 0.01]
    assert len(above) == row["recovery_rounds"] > 0
    assert above["round"].tolist() == list(range(6, 6 + len(above)))


def test_runs_share_their_rounds_as_far_as_they_are_the_same():
    grid = options.grid(
        options.Options(
            attack=tuple(ATTACKS), defence=("pgd",), eps=(1e-5, 0.1, 0.5), seed=(0, 1), sigma=0.1
        )
    )
    # A box of 1e-5 is narrower than PGD's step of 1e-4; the others bind nothing.
    before = main.alike(list(grid), federation.before_attack)
    assert [len(runs) for runs in before] == [3, 6, 3, 6]
    attacked = main.alike(before[1], federation.rounds_of)
    assert [[run.eps for run in runs] for runs in attacked] == [[0.1, 0.5]] * 3


def test_eps_that_binds_nothing_shares_the_training_and_moves_delta(whole):
    pair = of(whole.frame, attack="continuous", defence="pgd").sort_values("eps")
    assert pair.final_accuracy.nunique() == pair.train_s.nunique() == 1
    assert pair.delta.tolist() == [0.001, 0.5]
    low, high = pair.certified_accuracy
    assert low > high


def test_curves_fall_from_radius_zero_to_nothing(whole):
    for attack in ATTACKS[1:]:
        row = of(whole.frame, attack=attack, defence="none").iloc[0]
        curve = of(whole.curves, attack=attack, defence="none").sort_values("radius")
        assert curve.radius.iloc[0] == 0
        assert (curve.certified_accuracy.diff().dropna() <= 0).all()
        assert 0 < curve.certified_accuracy.iloc[0] <= 1 - row["abstained"] + 1e-9
        assert curve.certified_accuracy.iloc[-1] == 0
    assert "none" not in set(whole.curves.attack)


def test_defences_stop_an_attack_that_succeeds_without_them(session):
    first = frame(session, "defended").set_index("defence").first_asr
    assert first.index.tolist() == ["none", "noise_clip", *ROBUST.split(), "flip"]
    assert first["none"] > 0.9
    # FoolsGold trusts those who are unlike the others, and so a single adversary.
    assert first.drop(["none", "flip", "foolsgold"]).max() < 0.3


def test_published_command_line_runs_unchanged(session):
    (row,) = frame(session, "published").to_dict("records")
    assert row["attack"] == "one_shot"
    assert row["defence"] == "noise_clip+pgd"
    assert (row["eps"], row["delta"], row["local_steps"], row["seed"]) == (0.2, 0.2, 2, 1)
    assert row["variant"] == "published"
    assert row["abstained"] == 0
    # 360 test samples at batch size 16: the published code evaluates 352 of them.
    assert row["final_accuracy"] * 352 == pytest.approx(round(row["final_accuracy"] * 352))


def test_a_new_attack_and_a_new_defence_are_an_entry_each(session):
    found = frame(session, "toys")
    clean, flipped = (
        of(found, attack=name, defence="none").iloc[0] for name in ("none", "sign_flip")
    )
    assert flipped.adversaries == 9
    assert flipped.isna()[["delta", "certified_accuracy"]].all()
    assert flipped.final_accuracy < clean.final_accuracy - 0.1
    history = results.read(results.history_path(session["toys"].path))
    still = of(history, defence="no_step")
    assert still.accuracy.nunique() == 1


def test_data_sets_that_cannot_be_attacked_are_refused(session):
    done = session["unattackable"]
    assert done.status == 2
    assert "argument -d/--dataset: " in done.err
    assert "no training image of class 7" in done.err
    assert not done.path.exists()


def test_interrupted_run_goes_on_where_it_was(session, whole):
    assert (session["interrupted"].status, session["interrupted"].rounds) == (130, 8)
    again = frame(session, "resumed").iloc[0]
    assert session["resumed"].rounds == 4
    row = of(whole.frame, attack="continuous", defence="none").iloc[0]
    for column in ("final_accuracy", "first_asr", "final_asr", "certified_accuracy", "abstained"):
        assert again[column] == row[column]


def test_adversaries_attack_in_the_rounds_that_they_are_drawn_for(session, whole):
    (row,) = frame(session, "some").to_dict("records")
    assert "participation=0.5" in row["overrides"]
    assert np.isfinite([row["final_accuracy"], row["final_asr"]]).all()
    assert np.isnan(row["certified_accuracy"])  # which would be about rounds of all clients
    assert row["final_accuracy"] != of(whole.frame, attack="continuous").iloc[0]["final_accuracy"]


def test_checkpoints_are_gone_in_the_end(session, whole):
    folder = session["whole"].path.parent / ".checkpoints"
    assert not list(folder.iterdir())


def test_runs_that_are_there_are_skipped(session):
    assert session["skipped"].status == session["skipped"].rounds == 0
    assert "3 of 3 runs are already in" in session["skipped"].out


REFUSED = {
    "--participation 0.5 --attack one_shot": "argument --participation: the one-shot attack has",
    "--participation 0.5 --defence foolsgold": "argument --participation: FoolsGold compares",
    "--participation 0.5 --delta 0.1": "argument --participation: certificates are about",
    "--participation 0.5 --defence trimmed_mean --tolerated 3": "needs at least 7 clients, got 5",
    "--start-round 12": "argument --start-round: 12 rounds before the attack leave none",
    "--adversaries 11": "argument --adversaries: 11 of 10 clients",
    "-n 1": "argument -n/--num-clients: 30% of 1 clients",
    "--defence multi_krum --tolerated 4": "argument --defence: Multi-Krum against 4 adversaries "
    "needs at least 11 clients, got 10, see --tolerated",
    "--defence trimmed_mean --tolerated 5": "argument --defence: Trimmed mean against 5",
    "--eps -0.1": "argument --eps: needs a number of at least 0",
    "--as-published=moments": "argument --as-published: 'moments' is no departure that acts here",
    "--hypothesis luck": "choose from small-clip, few-models, small-rates",
    "--delta nan": "argument --delta",
    "--error 1": "argument --error",
    "--defence pgd+flip": "argument --defence: pgd and flip: only one of its kind",
    "--defence magic": "argument --defence: unknown 'magic'",
    "--defence pgd --hardening flip": "argument --hardening: pgd and flip",
    "--attack two_shots": "argument --attack: unknown 'two_shots'",
}


def test_wrong_options_exit_with_a_sentence_that_names_them(tmp_path):
    refused = {f"{SMALL} {words}": sentence for words, sentence in REFUSED.items()}
    assert_refused(FOLDER, tmp_path / "results.csv", refused)
