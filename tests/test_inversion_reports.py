"""Plots and tables of the inversion experiment, run as a user does."""

import re
import shutil
import statistics
from pathlib import Path

import programs
import pytest
from inversion_rows import FOLDER, RUN, write
from programs import run_report

from fl.experiment import tables

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
ALGORITHMS = ("fedavg", "adam", "secadam", "secadam_perturbed")
HEADS = [
    "Model Accuracy (%)",
    *(f"Each client's update {name}" for name in ("PSNR (dB)", "SSIM", "Cosine", "Labels (%)")),
]


def psnr(number, seed):
    return 15.0 - 2 * number + 0.13 * seed * (seed + 1)


def runs(algorithms=ALGORITHMS, **values):
    return [
        RUN | {"algorithm": algorithm, "seed": seed, "psnr": psnr(number, seed)} | values
        for number, algorithm in enumerate(algorithms)
        for seed in range(3)
    ]


def private():
    """Runs with differential privacy, in no particular order."""
    return [
        run
        for clip in (10.0, 0.5)
        for noise in (0.1, 0.001)
        for run in runs(["dp_fedavg"], clip=clip, noise=noise, psnr=10 + clip - noise)
    ]


def markdown_tables(path, *arguments):
    return programs.markdown_tables(FOLDER, path, *arguments)


# --- tables ----------------------------------------------------------------------------------


def test_main_table_and_attacks(tmp_path):
    found = [
        *runs(ALGORITHMS[:3], attack="cosine", restarts=4, psnr=30.0, chance_psnr=11.0),
        *runs(),
        *runs(dataset="cifar10", converge=None),
    ]
    path = write(tmp_path / "results.csv", found)
    (caption, main), (_, aggregates), (cosine, _), _, (several, attacks) = markdown_tables(path)
    assert caption.startswith("Reconstruction by the representation attack, ")
    assert cosine.startswith("Reconstruction by the cosine attack (4 restarts), ")
    assert several.startswith("Reconstruction by several attacks, ")
    assert "mean (standard deviation) over 3 seeds. Batch size 8, LDA partition" in caption
    assert "variant, at most 200 rounds." in caption
    assert main[0] == ["Task", "Algorithm", *HEADS]
    names = ["FedAvg", "FedAvg (Adam)", "SecAdam", "Perturbed SecAdam"]
    assert [row[1] for row in main[2:]] == names * 2
    tasks = [row[0] for row in main[2::4]]
    assert tasks == [
        "Digits, LeNet, 10 clients, trained until 80% accuracy",
        "CIFAR-10, LeNet, 10 clients",
    ]
    for number, row in enumerate(main[2:6]):
        values = [psnr(number, seed) for seed in range(3)]
        assert row[3] == f"{statistics.mean(values):.2f} ({statistics.stdev(values):.2f})"
        assert row[2] == "80.0 (0.0)"
    assert aggregates[0][2:] == ["Model Accuracy (%)", "Aggregate PSNR (dB)", "Aggregate SSIM"]
    assert [row[:2] for row in aggregates] == [row[:2] for row in main]
    assert {row[3] for row in aggregates[2:]} == {"9.00 (0.00)"}
    assert attacks[0][:4] == ["Task", "Attack", "FedAvg PSNR (dB)", "FedAvg Chance"]
    assert [row[1] for row in attacks[2:]] == [
        "Representation",
        "Cosine (4 restarts)",
        "Representation",
    ]
    assert attacks[3][2:4] == ["30.0 (0.0)", "11.0 (0.0)"]
    assert attacks[2][3] == "none", "a run of before chance was recorded"
    assert attacks[3][-1] == tables.DASH, "no run of the perturbed algorithm under it"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rounds", 750, "750 rounds"),
        ("batch_size", 1, "Batch size 1,"),
        ("partition", "iid", "IID partition"),
        ("variant", "published", "published variant"),
        ("overrides", "client_rate=0.01", "client_rate=0.01"),
        ("restarts", 9, "(9 restarts)"),
    ],
)
def test_other_settings_get_tables_of_their_own(tmp_path, name, value, words):
    path = write(tmp_path / "results.csv", runs() + runs(**{name: value, "psnr": 25.0}))
    assert len(markdown_tables(path)) == 4
    (caption, rows), _ = markdown_tables(path, "--select", f"{name}={value}")
    assert words in caption
    assert {row[3] for row in rows[2:]} == {"25.00 (0.00)"}


def test_idlg_has_its_own_table(tmp_path):
    path = write(tmp_path / "results.csv", runs() + runs(attack="idlg", batch_size=1))
    (caption, _), _ = markdown_tables(path, "--idlg")
    assert caption.startswith("Reconstruction by the iDLG attack, ")
    assert "Batch size 1," in caption
    done = run_report(FOLDER / "result_tables.py", "--results", path)
    assert done.stdout.count(r"\begin{table*}") == 2  # of updates
    assert done.stdout.count(r"\begin{table}") == 2
    assert not done.stderr
    done = run_report(FOLDER / "result_tables.py", "--results", path, "--dp", status=1)
    assert "no such runs" in done.stderr


def test_differential_privacy_beside_the_paper(tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text(
        "dataset,model,algorithm,attack,clip,noise,metric,mean,std\n"
        "digits,lenet,dp_fedavg,representation,0.5,0.001,psnr,8.7,0.3\n"
        "digits,lenet,dp_fedavg,representation,5.0,0.001,psnr,1.0,0.3\n"
        "digits,lenet,secadam_perturbed,representation,,,psnr,8.25,0.5\n"
        "cifar10,lenet,secadam_perturbed,representation,,,psnr,1.0,0.5\n"
    )
    path = write(tmp_path / "results.csv", private() + runs())
    (caption, rows), _ = markdown_tables(path, "--dp", "--paper", paper)
    assert "DP-FedAvg under the representation attack" in caption
    assert "Rows marked paper: as published" in caption
    assert [row[:2] for row in rows[2:]] == [
        *(["Without DP", name] for name in ("FedAvg", "FedAvg (Adam)", "SecAdam")),
        ["Without DP", "Perturbed SecAdam"],
        ["Without DP", "Perturbed SecAdam, paper"],
        ["C = 0.5", f"{SIGMA} = 0.001"],
        ["C = 0.5", f"{SIGMA} = 0.001, paper"],
        ["C = 0.5", f"{SIGMA} = 0.1"],
        *(["C = 10", f"{SIGMA} = {noise}"] for noise in (0.001, 0.1)),
    ]
    cells = {tuple(row[:2]): row[3] for row in rows[2:]}
    assert cells["C = 0.5", f"{SIGMA} = 0.001, paper"] == "8.70 (0.30)"
    assert cells["Without DP", "Perturbed SecAdam, paper"] == "8.25 (0.50)"
    assert cells["C = 10", f"{SIGMA} = 0.1"] == "19.90 (0.00)"
    # Without any run with differential privacy, the paper's columns for it are text here.
    path = write(tmp_path / "plain.csv", runs())
    (_, rows), _ = markdown_tables(path, "--paper", paper)
    assert rows[-1][1] == "Perturbed SecAdam, paper"


def test_diverged_runs_missing_scores_and_the_classifier(tmp_path):
    found = runs(["fedavg"], classifier_distance=0.25)
    for run in found:
        run |= {"global_psnr": None}
    found[0] |= {"status": "diverged", "psnr": None}
    found[1] |= {"psnr": None}
    # Nothing is known of the aggregate.
    ((caption, rows),) = markdown_tables(write(tmp_path / "results.csv", found))
    assert "† stands for a run that diverged" in caption
    assert "‡ stands for a run without this score" in caption
    assert "Classifier: cosine distance" in caption
    (row,) = (dict(zip(rows[0], row, strict=True)) for row in rows[2:])
    assert row["Each client's update PSNR (dB)"] == "15.78†‡"
    assert row["Each client's update Classifier"] == "0.250 (0.000)†"


def test_only_marks_that_a_table_has_are_explained(tmp_path):
    found = runs(["fedavg"], classifier_distance=0.25) + runs(["secadam"])
    found += [run | {"status": "diverged", "psnr": None} for run in runs(["adam"])]
    (caption, rows), _ = markdown_tables(write(tmp_path / "results.csv", found))
    cells = {cell for row in rows[2:] for cell in row}
    assert {"none", "diverged"} <= cells
    assert not any(mark in cell for mark in "†‡" for cell in cells)
    assert "†" not in caption
    assert "‡" not in caption


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    found = [*runs(), *runs(attack="cpl"), *private(), *runs(attack="idlg", batch_size=1)]
    # Every column at its widest.
    for number, run in enumerate(found):
        run |= {"classifier_distance": 0.5, "global_psnr": 9.0 + 5 * (number % 3)}
        run |= dict.fromkeys(("chance_psnr", "global_chance_psnr"), 10.0 + number % 3)
    found[0] |= {"status": "diverged"}
    path = write(tmp_path / "results.csv", found)
    text = "".join(
        run_report(FOLDER / "result_tables.py", "--results", path, *kind).stdout
        for kind in ((), ("--dp",))
    )
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert len(labels) == len(set(labels)) == 9
    programs.compile_latex(tmp_path, text)


# --- plots -----------------------------------------------------------------------------------


def test_plots_beside_the_results_and_the_same_each_time(tmp_path):
    # As a user does: in the folder, with no options.
    for script in FOLDER.glob("*.py"):
        shutil.copy(script, tmp_path)
    found = [*runs(), *runs(dataset="cifar10", converge=0.35), *private()]
    found[2] |= {"status": "diverged", "psnr": None}
    write(tmp_path / "results.csv", found)
    paths = [Path(line) for line in run_report(tmp_path / "plot.py").stdout.splitlines()]
    assert [path.name for path in paths] == [
        f"{name}_representation.{kind}"
        for name in ("scores_lenet", "tradeoff_digits_lenet")
        for kind in ("pdf", "png")
    ]
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    first = [path.read_bytes() for path in paths]
    for data in first[::2]:
        assert b"/CIDFontType2" in data, "embedded TrueType"
        assert b"/Type3" not in data
        assert b"/CreationDate" not in data
    run_report(tmp_path / "plot.py")
    assert [path.read_bytes() for path in paths] == first


def test_each_setting_has_its_figure(tmp_path):
    found = [
        *runs(),
        *runs(rounds=50),
        *runs(model="cnn1", attack="cosine", alpha=None, partition="iid"),
        *runs(model="cnn1", attack="cosine", alpha=None, partition="iid", clients=75),
        *runs(["dp_fedavg"], clip=1.0, noise=0.1, model="cnn2"),  # with no reference, one point
    ]
    path = write(tmp_path / "results.csv", found)
    output = tmp_path / "out" / "figures"
    run_report(FOLDER / "plot.py", "--results", path, "--output", output)
    assert {file.name for file in output.glob("*.png")} == {
        "scores_lenet_representation_rounds200.png",
        "scores_lenet_representation_rounds50.png",
        "scores_cnn1_cosine.png",
        "tradeoff_digits_cnn2_representation.png",
    }


def test_nothing_to_draw(tmp_path):
    path = write(tmp_path / "results.csv", runs(psnr=None))
    done = run_report(FOLDER / "plot.py", "--results", path, status=1)
    assert "nothing to draw" in done.stderr
