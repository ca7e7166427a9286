"""Grids for a scheduler: command lines of what is left, submitted, and rows that meet again."""

import os
import subprocess
import sys
from pathlib import Path

from fl.experiment import results
from fl.experiment.lines import run_lines

ROOT = Path(__file__).parents[1]
ASKED = "--algorithm fedavg secadam --seed 0 1 --alpha 0.1 0.5 --rounds 4 --model softmax"


def listed(experiment, results_path, *words):
    """The lines of a program's --list."""
    command = [sys.executable, "main.py", "--list", "--results", str(results_path), *words]
    done = subprocess.run(command, cwd=ROOT / experiment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_cell_that_is_left_is_a_command_that_runs_anywhere(tmp_path):
    path = tmp_path / "results.csv"
    words = [*ASKED.split(), "--efficient", "--participation", "0.5"]
    lines = listed("performance", path, *words)
    assert len(lines) == len(set(lines)) == 8
    environment = os.environ | {"XLA_FLAGS": ""}
    for line in lines[:2]:
        subprocess.run(line, shell=True, cwd="/", env=environment, check=True)
    rows = results.read(path)
    assert rows["overrides"].tolist() == ["participation=0.5"] * 2
    assert len(rows.drop_duplicates(["algorithm", "alpha", "seed"])) == 2
    left = listed("performance", path, *words)
    assert sorted([*left, *lines[:2]]) == sorted(lines)


def test_runs_that_share_their_training_are_one_command(tmp_path):
    path = tmp_path / "results.csv"
    attacks = "--attack representation analytic -o sgd ours --dp 1 0.01 -n 4 -b 3 -m softmax"
    lines = listed("inversion", path, *attacks.split(), "--converge")
    assert len(lines) == 2
    for line in lines:
        assert "--attack representation analytic" in line
        assert "--dp 1.0 0.01" in line
    attacks = "--attack none one_shot --as-published=radius,pgd-step --seed 0 1"
    lines = listed("mitigation", path, *attacks.split())
    assert len(lines) == 2
    for line in lines:
        assert "--attack none one_shot" in line
        assert "--as-published=radius,pgd-step" in line


FAKE_SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$@" >{folder}/asked
"""


def script(folder, *words, path=os.environ["PATH"]):
    """What performance/experiment.sh says."""
    command = ["bash", "experiment.sh", "--dataset", "digits", "--model", "softmax", *words]
    more = ["--", "--rounds", "4", "--results", str(folder / "results.csv")]
    environment = os.environ | {"PYTHON": sys.executable, "PATH": path}
    done = subprocess.run(
        [*command, *more], cwd=ROOT / "performance", env=environment, capture_output=True, text=True
    )
    return done


def test_the_script_lists_its_grid_and_runs_nothing(tmp_path):
    done = script(tmp_path, "--list")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6 * 3
    assert not (tmp_path / "results.csv").exists()


def test_the_script_says_how_much_of_its_grid_is_left_and_runs_nothing(tmp_path):
    done = script(tmp_path, "--plan")
    assert (done.returncode, done.stdout, done.stderr) == (0, "left: 18 of 18 runs\n", "")
    assert not (tmp_path / "results.csv").exists()


def test_lines_run_in_one_process_also_after_one_that_is_refused(capsys):
    def main():
        (word,) = sys.argv[1:]
        if word == "refused":
            sys.exit(2)
        print(sys.argv)
        return 0

    lines = ["'of two words'\n", "refused\n", "last\n"]
    assert run_lines(Path("main.py"), main, lines) == 2
    assert capsys.readouterr().out == "['main.py', 'of two words']\n['main.py', 'last']\n"
    assert run_lines(Path("main.py"), main, lines[:1]) == 0


def test_the_script_submits_an_array_with_a_task_for_each_line(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(FAKE_SBATCH.format(folder=tmp_path))
    (tools / "sbatch").chmod(0o755)
    words = ("--slurm", "--partition=all", "--time", "10")
    done = script(tmp_path, *words, path=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:3] == ["--partition=all", "--time", "10"]
    assert "--array=1-18" in asked
    jobs = Path(done.stdout.split("command lines and logs: ")[1].strip())
    assert len((jobs / "commands").read_text().splitlines()) == 18
    # A task runs its own line.
    (jobs / "commands").write_text("echo one\necho two\n")
    task = os.environ | {"SLURM_ARRAY_TASK_ID": "2"}
    ran = subprocess.run(["sh", "-c", asked[-1]], env=task, capture_output=True, text=True)
    assert ran.stdout == "two\n"
    (jobs / "commands").unlink()
    jobs.rmdir()


def test_without_a_scheduler_the_script_says_so(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "basename", "mktemp", "rm", "env"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout
        (tools / name).symlink_to(found.strip())
    done = script(tmp_path, "--slurm", path=str(tools))
    assert done.returncode == 1
    assert "--slurm needs sbatch" in done.stderr


COLUMNS = ("name", "value", "date")
DATE = "2026-01-01T00:00:00Z"


def write(path, *names):
    rows = [{"name": name, "value": 0.1, "date": DATE} for name in names]
    results.append(path, rows, COLUMNS)


def merge(*paths):
    command = [sys.executable, "-m", "fl.experiment.merge", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_rows_of_many_files_meet_in_one_and_none_twice(tmp_path):
    into, one, other = (tmp_path / f"{name}.csv" for name in ("into", "one", "other"))
    write(into, "a")
    write(one, "a", "b, quoted")
    write(other, "b, quoted", "c", "c")
    write(results.history_path(other), "h")
    for _ in range(2):
        done = merge(into, one, other)
        assert done.returncode == 0, done.stderr
        assert results.read(into)["name"].tolist() == ["a", "b, quoted", "c"]
        assert results.read(results.history_path(into))["name"].tolist() == ["h"]
    assert "0 rows added" in done.stdout
    assert results.read(other)["name"].tolist() == ["b, quoted", "c", "c"]


def test_files_that_do_not_belong_together_are_refused_with_a_sentence(tmp_path):
    into, other = tmp_path / "into.csv", tmp_path / "other.csv"
    write(into, "a")
    results.append(other, [{"other": 1, "date": DATE}], ("other", "date"))
    for given, sentence in ((other, "other columns"), (tmp_path / "none.csv", "is not a file")):
        done = merge(into, given)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
