"""The paper's figures beside ours: how far apart they are, and what is said of each."""

import shutil

import inversion_rows
import pandas as pd
import pytest
from programs import compile_latex, markdown_tables, run_report

from fl.experiment import comparison
from fl.experiment.comparison import AGREES, EXPLAINED, NOT_RUN, UNEXPLAINED, Compared, Paper
from fl.experiment.layout import Metric

KEYS = ["dataset", "model", "attack"]
RUN = {"dataset": "digits", "model": "lenet", "status": "ok", "variant": "corrected"}
RUN |= {"departures": None, "overrides": None, "clients": 10, "rounds": 3000}


def compared(tmp_path, figures, *runs):
    """What is said of figures {attack: (mean, std)}, of runs (attack, accuracy, further cells)."""
    rows = [
        f"digits,lenet,{attack},accuracy,{mean},{std}" for attack, (mean, std) in figures.items()
    ]
    path = tmp_path / "paper.csv"
    path.write_text("\n".join(["dataset,model,attack,metric,mean,std", *rows, ""]))
    metric = Metric("accuracy", "", "Accuracy (%)", 100, 1)
    metrics = {"accuracy": Compared(metric, 0.005, frozenset({"delta", "sigma"}))}
    how = (
        lambda row: row["attack"],
        lambda frame: frame["clients"] > 1,
        ("radius", "delta", "moments"),
        3000,
    )
    paper = Paper(path, KEYS, metrics, *how)
    frame = pd.DataFrame(
        [RUN | {"attack": attack, "accuracy": value} | more for attack, value, more in runs]
    )
    return comparison.compare(frame, paper).set_index("attack")


# Of these, delta and sigma move no accuracy.
PUBLISHED, SMALL_CLIP = {"variant": "published"}, {"overrides": "clip_norm=0.001"}
MOST = SMALL_CLIP | {"variant": "partial", "departures": "delta moments"}
BUT_RADIUS = MOST | {"overrides": None}
RADIUS = {"variant": "partial", "departures": "radius"}
DELTA = {"variant": "partial", "departures": "delta"}
SIGMA, BOTH = {"overrides": "sigma=0.1"}, {"overrides": "clip_norm=0.001 sigma=0.1"}


def test_distances_are_in_units_of_both_deviations_and_at_least_the_floor(tmp_path):
    runs = [("a", 0.80, {}), ("a", 0.86, {}), ("b", 0.82, {})]
    found = compared(tmp_path, {"a": (0.7, 0.05), "b": (0.8, 0.0)}, *runs)
    std = (0.05**2 + 2 * 0.03**2) ** 0.5
    assert found.loc["a", "corrected_apart"] == pytest.approx((0.83 - 0.7) / std)
    assert found.loc["b", "corrected_apart"] == pytest.approx(0.02 / 0.005)
    assert found["corrected_runs"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("runs", "verdict", "by"),
    [
        ([(0.81, {})], AGREES, ""),
        ([(0.81, {}), (0.5, PUBLISHED)], AGREES, ""),
        ([(0.5, {}), (0.81, PUBLISHED)], EXPLAINED, "as published"),
        ([(0.5, {}), (0.81, PUBLISHED), (0.81, RADIUS)], EXPLAINED, "radius"),
        ([(0.5, {}), (0.81, PUBLISHED), (0.81, SMALL_CLIP)], EXPLAINED, "as published"),
        ([(0.5, {}), (0.81, BUT_RADIUS), (0.81, SMALL_CLIP)], EXPLAINED, "as published but radius"),
        ([(0.5, {}), (0.81, SMALL_CLIP)], EXPLAINED, "clip_norm=0.001"),
        ([(0.5, {}), (0.81, MOST)], EXPLAINED, "as published but radius, clip_norm=0.001"),
        ([(0.5, {}), (0.5, PUBLISHED), (0.5, SMALL_CLIP)], UNEXPLAINED, ""),
        ([(0.5, {}), (0.81, DELTA)], UNEXPLAINED, ""),
        ([(0.5, {}), (0.81, DELTA | SMALL_CLIP)], EXPLAINED, "delta, clip_norm=0.001"),
        ([(0.5, {}), (0.81, SIGMA)], UNEXPLAINED, ""),
        ([(0.5, {}), (0.81, DELTA | SIGMA)], UNEXPLAINED, ""),
        ([(0.5, {}), (0.81, BOTH)], EXPLAINED, "clip_norm=0.001 sigma=0.1"),
        ([(0.5, SMALL_CLIP)], UNEXPLAINED, ""),
        ([(0.8, {"clients": 1})], NOT_RUN, ""),
        ([(0.8, {"status": "diverged"})], NOT_RUN, ""),
    ],
)
def test_every_figure_gets_a_verdict(tmp_path, runs, verdict, by):
    found = compared(tmp_path, {"a": (0.8, 0.01)}, *(("a", *run) for run in runs))
    assert (found.loc["a", "verdict"], found.loc["a", "by"]) == (verdict, by)


@pytest.mark.parametrize(
    ("rounds", "mean", "stand_in"),
    [((3000, 600), 0.8, None), ((600, 300), 0.8, 600), ((300, 600), 0.1, 600)],
)
def test_shorter_runs_stand_in_where_there_are_none_as_in_the_paper(
    tmp_path, rounds, mean, stand_in
):
    first, second = ({"rounds": number} for number in rounds)
    found = compared(tmp_path, {"a": (0.8, 0)}, ("a", 0.8, first), ("a", 0.1, second)).loc["a"]
    assert found["corrected_mean"] == mean
    assert found["stand_in"] == stand_in if stand_in else pd.isna(found["stand_in"])


def test_the_tally_counts_verdicts(tmp_path):
    runs = ("a", 0.8, {}), ("b", 0.1, {})
    found = compared(tmp_path, {"a": (0.8, 0), "b": (0.8, 0), "c": (0.8, 0)}, *runs)
    assert comparison.tally(found) == "Of 3 figures, 1 agree, 1 unexplained, 1 not run."


def test_a_data_set_that_the_paper_has_no_figure_of_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to compare"):
        compared(tmp_path, {"a": (0.8, 0)}, ("a", 0.8, {"dataset": "svhn_cropped"}))


def test_tables_and_figures_of_the_inversion_experiment(tmp_path):
    as_in_the_paper = {"dataset": "fashion_mnist", "clients": 100, "rounds": 750, "converge": None}
    of_idlg = {"algorithm": "secadam", "attack": "idlg", "batch_size": 1, "final_accuracy": 0.826}
    rows = [inversion_rows.RUN | as_in_the_paper | of_idlg | {"psnr": 9.0, "ssim": 0.05}]
    path = inversion_rows.write(tmp_path / "results.csv", rows)
    tables = markdown_tables(inversion_rows.FOLDER, path, "--compare")
    assert [caption.split(";")[0] for caption, _ in tables] == [
        f"Fashion-MNIST, LeNet, 100 clients: {name}"
        for name in ("Accuracy (%)", "PSNR (dB)", "SSIM")
    ]
    verdicts = [next(row[-1] for row in rows if row[0] == "SecAdam, iDLG") for _, rows in tables]
    assert verdicts == [AGREES, UNEXPLAINED, AGREES]
    said = run_report(inversion_rows.FOLDER / "result_tables.py", "--results", path, "--compare")
    assert "Of 69 figures, 2 agree, 1 unexplained, 66 not run." in said.stderr
    if shutil.which("pdflatex"):
        compile_latex(tmp_path, said.stdout)
    drawn = run_report(
        *(inversion_rows.FOLDER / "plot.py", "--results", path, "--output", tmp_path, "--compare")
    )
    assert "comparison_fashion_mnist_lenet.png" in drawn.stdout
