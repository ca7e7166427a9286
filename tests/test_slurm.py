"""A grid as an array job of a real SLURM, and a run of two tasks, on this machine alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fl.experiment import results

HERE = Path(__file__).parent
FOLDER = HERE.parent / "performance"
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason="needs Debian's slurm-wlm and munge, and root: apt-get install slurm-wlm munge",
)

# Kills the first task while it runs, waits for the others, and submits what is left.
GRID = """
submit() {
    bash experiment.sh --dataset digits --model softmax --slurm --parsable \
        -- --algorithm fedavg secadam --rounds 400 --results "$RESULTS"
}
wait_for_all() { while [ -n "$(squeue --noheader)" ]; do sleep 1; done; }
job=$(submit | head -1)
running() { squeue --noheader --states=RUNNING --jobs="$1" 2>/dev/null | grep -q .; }
until running "${job}_1"; do sleep 0.2; done
sleep 2
scancel --signal=KILL --full "${job}_1"
wait_for_all
cp "$RESULTS" "$RESULTS.first"
submit >"$RESULTS.again"
wait_for_all
submit
"""
TWO = """
srun --ntasks=2 --overcommit "$PYTHON" main.py -m softmax --efficient -n 7 --rounds 20 \
    --results "$RESULTS"
"""


def under_slurm(folder, commands, path):
    """Run shell commands, in the folder of the experiment, with a SLURM of their own."""
    settings = {"RESULTS": str(path), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", HERE / "slurm.sh", folder / "slurm", "bash", "-euc", commands],
        cwd=FOLDER,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_array_job_leaves_each_row_once_though_a_task_is_killed(tmp_path):
    path = tmp_path / "results.csv"
    said = under_slurm(tmp_path, GRID, path)
    first, rows = results.read(f"{path}.first"), results.read(path)
    assert len(first) == 5
    assert len(rows) == len(rows.drop_duplicates(["algorithm", "seed"])) == 6
    assert (rows["status"] == "ok").all()
    jobs = Path(Path(f"{path}.again").read_text().split("command lines and logs: ")[1].strip())
    assert len((jobs / "commands").read_text().splitlines()) == 1
    assert said.strip() == "nothing is left"


def test_two_tasks_of_a_step_share_a_run(tmp_path):
    path = tmp_path / "results.csv"
    said = under_slurm(tmp_path, TWO, path)
    assert said.count("final accuracy") == 1
    assert len(results.read(path)) == 1
