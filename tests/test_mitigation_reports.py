"""Plots and tables of the mitigation experiment, run as a user does."""

import re
import shutil
import statistics
from pathlib import Path

import programs
import pytest
from programs import run_report

from fl.experiment import results

FOLDER = Path(__file__).parents[1] / "mitigation"
EPSILON = "\N{GREEK SMALL LETTER EPSILON}"
RUN = {
    **{"dataset": "digits", "model": "lenet", "clients": 10, "algorithm": "secadam"},
    **{"attack": "continuous", "defence": "none", "eps": None, "delta": 0.1, "adversaries": 3},
    **{"seed": 0, "rounds": 12, "start_round": 8, "local_steps": 1, "batch_size": 32},
    **{"alpha": 0.5, "partition": "lda", "variant": "corrected"},
    **{"departures": None, "overrides": None},
}
ROW = RUN | {
    **{"final_accuracy": 0.8, "certified_accuracy": 0.5, "first_asr": 0.3, "final_asr": 0.9},
    **{"certified_asr": 0.4, "recovery_rounds": 0, "status": "ok", "date": "2026-11-22T10:53:50Z"},
}
HEADS = [
    *("Accuracy (%) Final", "Accuracy (%) Certified", "Attack success (%) First"),
    *("Attack success (%) Final", "Attack success (%) Certified", "Recovery Rounds"),
]
DEFENCES = ("multi_krum", "pgd", "none", "noise_clip", "median")


def accuracy(number, seed):
    return 0.8 - 0.05 * number + 0.013 * seed * (seed + 1)


def rows(attacks=("continuous", "one_shot"), defences=DEFENCES, **values):
    """Runs in no particular order."""
    found = []
    for attack in attacks:
        for number, defence in enumerate(defences):
            for eps in (0.5, 0.01) if "pgd" in defence else (None,):
                for seed in range(2):
                    own = {"attack": attack, "defence": defence, "eps": eps, "seed": seed}
                    own |= {"delta": eps or 0.1, "final_accuracy": accuracy(number, seed)}
                    found.append(ROW | own | values)
    return found


def write(path, found):
    results.append(path, found, list(ROW))
    runs = [{name: row[name] for name in RUN} for row in found]
    date = {"date": ROW["date"]}
    history = [
        run | {"round": number, "accuracy": 0.07 * number, "asr": 0.5, "loss": 1.0} | date
        for run in runs
        for number in (4, 8, 9, 10, 12)
    ]
    results.append(results.history_path(path), history, list(history[0]))
    curves = [
        run | {"radius": radius, "certified_accuracy": 0.9 - radius, "certified_asr": 0.1} | date
        for run in runs
        for radius in (0.0, 0.1, 0.2)
        if run["attack"] != "none"
    ]
    results.append(results.curves_path(path), curves, list(curves[0]))
    return path


def markdown_tables(path, *arguments):
    return programs.markdown_tables(FOLDER, path, *arguments)


def test_a_table_for_each_attack_with_defences_in_order(tmp_path):
    path = write(tmp_path / "results.csv", rows())
    (caption, table), (other, _) = markdown_tables(path)
    assert caption.startswith("SecAdam under a continuous attack, mean (standard deviation) over 2")
    assert "1 local step a round, attacked after 8 of 12 rounds" in caption
    assert other.startswith("SecAdam under a one-shot attack")
    assert table[0] == ["Task", "Defence", *HEADS]
    assert [line[1] for line in table[2:]] == [
        *("None", "Clip and noise", f"PGD, {EPSILON} = 0.01", f"PGD, {EPSILON} = 0.5"),
        *("Median", "Multi-Krum"),
    ]
    values = [100 * accuracy(DEFENCES.index("none"), seed) for seed in range(2)]
    assert table[2][2] == f"{statistics.mean(values):.1f} ({statistics.stdev(values):.1f})"
    assert table[2][3:] == ["50.0 (0.0)", "30.0 (0.0)", "90.0 (0.0)", "40.0 (0.0)", "0.0 (0.0)"]


@pytest.mark.parametrize(
    ("options", "attacks", "defences"),
    [
        (["--one-shot"], ["one-shot"], 6),
        (["--continuous", "--pgd"], ["continuous"], 3),
        (["--one-shot", "--noise-clip"], ["one-shot"], 2),
        (["--aggregators"], ["continuous", "one-shot"], 3),
        (["--pgd", "--noise-clip"], ["continuous", "one-shot"], 4),
    ],
)
def test_published_flags_narrow_the_tables_down(tmp_path, options, attacks, defences):
    found = markdown_tables(write(tmp_path / "results.csv", rows()), *options)
    assert [re.search(r"under an? (\S+) attack", caption)[1] for caption, _ in found] == attacks
    assert {len(table) - 2 for _, table in found} == {defences}


def test_published_figures_stand_beside_ours(tmp_path):
    path = write(tmp_path / "results.csv", rows(("one_shot",), ("pgd", "none")))
    paper = tmp_path / "paper.csv"
    paper.write_text(
        "dataset,model,attack,defence,eps,metric,mean,std\n"
        "digits,lenet,one_shot,none,,final_accuracy,0.883,0.002\n"
        "digits,lenet,one_shot,pgd,0.010,first_asr,0.082,0.07\n"
        "digits,lenet,one_shot,pgd,0.1,first_asr,0.9,0.07\n"
    )
    ((caption, table),) = markdown_tables(path, "--paper", paper)
    assert "Rows marked paper" in caption
    cells = {line[1]: line[2:] for line in table[2:]}
    assert cells["None, paper"][0] == "88.3 (0.2)"
    assert cells[f"PGD, {EPSILON} = 0.01, paper"][2] == "8.2 (7.0)"
    assert f"PGD, {EPSILON} = 0.1, paper" not in cells, "of which there is no run"


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged(tmp_path):
    other = rows(("one_shot",), ("none",), adversaries=5)
    path = write(tmp_path / "results.csv", rows(("one_shot",), ("none",)) + other)
    ((_, table),) = markdown_tables(path)
    assert [line[1] for line in table[2:]] == ["None, 3 adversaries", "None, 5 adversaries"]
    others = rows(("one_shot",), ("none",), start_round=4)
    path = write(tmp_path / "other.csv", rows(("one_shot",), ("none",)) + others)
    assert len(markdown_tables(path)) == 2


def test_diverged_runs_are_marked(tmp_path):
    found = rows(("one_shot",), ("none",))
    found[0] |= {"status": "diverged", "final_accuracy": None}
    ((caption, table),) = markdown_tables(write(tmp_path / "results.csv", found))
    assert "†" in table[2][2]
    assert "diverged" in caption


def test_absent_runs_are_said(tmp_path):
    path = write(tmp_path / "results.csv", rows(("continuous",)))
    assert (
        "no such runs"
        in run_report(FOLDER / "result_tables.py", "--results", path, "--one-shot", status=1).stderr
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    path = write(tmp_path / "results.csv", rows() + rows(("none",), certified_accuracy=None))
    text = run_report(FOLDER / "result_tables.py", "--results", path).stdout
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert labels == [f"tab:mitigation-{name}" for name in ("none", "continuous", "one-shot")]
    programs.compile_latex(tmp_path, text)


def test_plots_are_the_same_each_time(tmp_path):
    path = write(tmp_path / "results.csv", rows() + rows(("none",)))
    first = run_report(FOLDER / "plot.py", "--results", path).stdout.splitlines()
    names = [
        *(f"backdoor_digits_lenet_{attack}" for attack in ("continuous", "one_shot", "none")),
        *(f"certificate_digits_lenet_{attack}" for attack in ("continuous", "one_shot")),
        "trigger_digits",
    ]
    kinds = ("pdf", "png")
    assert {Path(line).name for line in first} == {f"{n}.{kind}" for n in names for kind in kinds}
    before = {Path(line).name: Path(line).read_bytes() for line in first}
    run_report(
        FOLDER / "plot.py", "--results", path, "--output", tmp_path / "again", "--no-trigger"
    )
    again = {found.name: found.read_bytes() for found in (tmp_path / "again").iterdir()}
    assert again == {name: data for name, data in before.items() if "trigger" not in name}


def test_plots_do_without_history_curves_and_data(tmp_path):
    path = write(tmp_path / "results.csv", rows(dataset="cifar10"))
    results.history_path(path).unlink()
    done = run_report(FOLDER / "plot.py", "--results", path, "--data-dir", tmp_path / "none")
    assert "no picture of the trigger on cifar10" in done.stderr
    assert "left out: no results yet" in done.stderr
    assert all("certificate" in line for line in done.stdout.splitlines())
