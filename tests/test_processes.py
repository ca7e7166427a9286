"""A run shared by two processes: who writes, what a death does, and that it goes on to the bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal
from programs import DIES, RUNS, assert_refused
from test_sharding import environment, free_port

from fl.experiment import results
from fl.simulation import processes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "performance"
# Seven clients on four devices.
ASKED = [
    "-m",
    "softmax",
    "-a",
    "secadam",
    "--efficient",
    "-n",
    "7",
    "--rounds",
    "24",
    "--evaluate-every",
    "3",
]
SAVES = "from fl.simulation import keeping; keeping.CHECKPOINT_EVERY = 0.0\n"


def start(path, code, *more, devices=2, folder=FOLDER, asked=ASKED):
    """A process of a program, after some code."""
    command = [sys.executable, "-c", code + RUNS, "--results", str(path), *asked, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(devices), **pipes)


def start_two(path, *codes, more=(), **program):
    """Both processes, each after its code."""
    where = f"127.0.0.1:{free_port()}"
    shared = ["--coordinator", where, "--processes", "2", *more, "--process"]
    numbered = enumerate(codes)
    return [start(path, code, *shared, str(number), **program) for number, code in numbered]


def end(*started):
    """Exit statuses, and what was said on standard output and error."""
    said = [each.communicate(timeout=300) for each in started]
    return [each.returncode for each in started], *zip(*said, strict=True)


def history(path):
    frame = results.read(results.history_path(path))
    return frame[["round", "accuracy", "loss"]].values.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of two processes that nothing happens to."""
    path = tmp_path_factory.mktemp("whole") / "results.csv"
    statuses, out, err = end(*start_two(path, "", ""))
    assert statuses == [0, 0], err
    return path, out, err


def test_the_first_process_alone_writes_and_draws(whole):
    path, out, err = whole
    assert len(results.read(path)) == 1
    assert "final accuracy" in out[0]
    assert "round/s" in err[0]
    assert "seed 0" not in out[1] + err[1]


def test_two_processes_compute_what_one_does(whole, tmp_path):
    path = tmp_path / "results.csv"
    statuses, _, err = end(start(path, "", devices=1))
    assert statuses == [0], err
    for one, two in zip(history(path), history(whole[0]), strict=True):
        assert one[0] == two[0]
        assert one[1] == pytest.approx(two[1], abs=0.01)
        assert one[2] == pytest.approx(two[2], rel=1e-4)


@pytest.mark.parametrize("dying", [0, 1])
def test_a_death_ends_the_other_with_a_sentence_and_the_run_goes_on_to_the_bit(
    dying, whole, tmp_path
):
    path, kept = tmp_path / "results.csv", tmp_path / "kept"
    codes = [SAVES, SAVES]
    codes[dying] = DIES
    more = ["--checkpoint", str(kept)]
    started = start_two(path, *codes, more=more)
    statuses, _, err = end(started[dying])
    began = time.monotonic()
    others, _, said = end(started[1 - dying])
    assert time.monotonic() - began < 60
    assert statuses == [-signal.SIGKILL], err
    assert others == [1]
    assert f"process {1 - dying}: another process of this run has ended" in said[0]
    assert "Traceback" not in said[0]
    assert len(list(kept.iterdir())) == 1
    statuses, _, err = end(*start_two(path, "", "", more=more))
    assert statuses == [0, 0], err
    # Where it went on from: the bar starts there.
    assert "| 0/24" not in err[0]
    assert history(path) == history(whole[0])


def test_processes_that_share_no_folder_are_told_so(tmp_path):
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--checkpoint"]
    folders = [str(tmp_path / "kept" / name) for name in "ab"]
    results_path = tmp_path / "results.csv"
    started = [
        start(results_path, "", *shared, folder, "--process", str(number))
        for number, folder in enumerate(folders)
    ]
    statuses, _, err = end(*started)
    assert statuses == [2, 2], err
    for said, folder in zip(err, folders, strict=True):
        assert f"argument --checkpoint: {folder} is to be a folder that all processes see" in said
        assert "Traceback" not in said
    assert not list(tmp_path.glob("kept/*/*"))
    assert not results_path.exists()


# In place of the attack on a window, which takes long to compile: images are what the server saw.
SHOWS = """
import sys; sys.path.insert(0, ".")
import jax, jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from adaptive import WindowAttack
from attacks import ATTACKS
def show(view, key):
    shape = 1, view.mixed * view.public.batch, *view.public.image_shape
    return jnp.resize(jax.nn.sigmoid(ravel_pytree(view.observations)[0][-700:]), shape)
def refuse(*arguments):
    raise ValueError
shown = WindowAttack(show, refuse)
ATTACKS["adaptive"] = ATTACKS["adaptive"]._replace(build=lambda public: shown)
"""
# By program: what is asked of it, and columns of what comes of it.
ATTACKS = {
    "inversion": (
        "-m softmax --algorithm secadam -n 4 -b 1 --rounds 6 --evaluate-every 1 --window 3 "
        "--attack analytic adaptive --attack-clients 1",
        ("final_accuracy", "psnr", "ssim", "global_psnr", "global_ssim", "chance_psnr"),
    ),
    "mitigation": (
        "-m softmax -n 4 --attack continuous --defence median --rounds 6 --start-round 3 "
        "--evaluate-every 1 --smoothed-models 10",
        ("final_accuracy", "final_asr", "first_asr", "certified_accuracy", "certified_asr"),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_two_processes_attack_as_one_does_though_one_is_killed(name, tmp_path):
    asked, columns = ATTACKS[name]
    program = {"folder": ROOT / name, "asked": asked.split()}
    code = SHOWS if name == "inversion" else ""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    statuses, _, err = end(start(one, code, devices=1, **program))
    assert statuses == [0], err
    statuses, _, err = end(*start_two(two, code + DIES, code + SAVES, **program))
    assert statuses == [-signal.SIGKILL, 1], err
    assert not two.exists()
    statuses, out, err = end(*start_two(two, code, code, **program))
    assert statuses == [0, 0], err
    assert "| 0/6" not in err[0]
    assert "attack" in out[0]
    assert "attack" not in out[1] + err[1]
    left = [path.name for path in (tmp_path / ".checkpoints").glob("*")]
    assert not left
    found = [results.read(path)[list(columns)].astype(float) for path in (one, two)]
    # Sums in another order change the last bits of the parameters, and of the images.
    assert_frame_equal(*found, rtol=1e-3)


REFUSED = {
    "--processes 2": "argument --coordinator: goes with --processes and --process",
    "--coordinator here --processes 2 --process 0": "argument --coordinator: needs HOST:PORT",
    "--coordinator a:1 --processes 2 --process 2": "argument --process: is from 0 to one below",
    "--coordinator a:1 --processes 2 --process 0 --mapping loop": "argument --mapping: several",
}


def test_what_cannot_be_is_refused_with_a_sentence(tmp_path):
    assert_refused(FOLDER, tmp_path / "results.csv", REFUSED)


@pytest.mark.parametrize("name", processes.LAUNCHED)
def test_schedulers_say_whether_there_are_others(name, monkeypatch):
    for each in processes.LAUNCHED:
        monkeypatch.delenv(each, raising=False)
    assert not processes.launched()
    monkeypatch.setenv(name, "1")
    assert not processes.launched()
    monkeypatch.setenv(name, "2")
    assert processes.launched()
