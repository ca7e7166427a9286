"""Plots and tables of the performance experiment, run as a user does."""

import re
import shutil
import statistics
from pathlib import Path

import programs
import pytest
from programs import run_report

from fl.experiment import results, tables

FOLDER = Path(__file__).parents[1] / "performance"
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
DATE = "2026-11-22T10:53:50Z"
ALGORITHMS = ("fedavg", "secagg", "secadam")
RUN = {
    **{"dataset": "digits", "model": "lenet", "clients": 10, "algorithm": "fedavg", "alpha": 0.5},
    **{"local_steps": 1, "final_accuracy": 0.5, "rounds": 200, "batch_size": 32, "seed": 0},
    **{"partition": "lda", "aggregation": "clear", "ratio": None},
    **{"rounds_to_convergence": None},
    **{
        "convergence": None,
        "status": "ok",
        "variant": "corrected",
        "departures": None,
        "overrides": None,
        "date": DATE,
    },
}
EVALUATION = {
    name: value
    for name, value in RUN.items()
    if name not in ("final_accuracy", "rounds_to_convergence", "status", "date")
} | {"round": 0, "accuracy": 0.1, "loss": 2.3, "date": DATE}


def accuracy(number, seed, steps=1):
    return 0.6 + 0.1 * number + 0.013 * seed * (seed + 1) - 0.01 * steps


def runs(**values):
    return [
        RUN
        | {"algorithm": algorithm, "seed": seed, "final_accuracy": accuracy(number, seed)}
        | values
        for number, algorithm in enumerate(ALGORITHMS)
        for seed in range(3)
    ]


def grid():
    """Runs of 1, 2 and 3 local steps at two alphas, 200 local steps in all."""
    return [
        run | {"final_accuracy": run["final_accuracy"] - 0.01 * steps}
        for alpha in (0.5, 1.0)
        for steps in (1, 2, 3)
        for run in runs(alpha=alpha, local_steps=steps, rounds=200 // steps)
    ]


def evaluations(found):
    return [
        {name: value for name, value in run.items() if name in EVALUATION}
        | {"round": number, "accuracy": run["final_accuracy"] * number / 50, "loss": 1.0}
        for run in found
        for number in (0, 25, 50)
    ]


def write(path, found, history=()):
    results.append(path, found, list(RUN))
    results.append(results.history_path(path), history, list(EVALUATION))
    return path


def markdown_tables(path, *arguments):
    return programs.markdown_tables(FOLDER, path, *arguments)


# --- tables ----------------------------------------------------------------------------------


def test_main_table_and_grid(tmp_path):
    path = write(tmp_path / "results.csv", grid())
    (caption, main), (grid_caption, steps) = markdown_tables(path)
    assert caption.startswith("Final test accuracy (%), mean (standard deviation) over 3 seeds. ")
    assert f"10 clients, batch size 32, LDA partition with {ALPHA} = 0.5" in caption
    assert "1 local step a round, 200 rounds" in caption
    assert main[0] == ["Algorithm", "Digits LeNet"]
    assert [row[0] for row in main[2:]] == ["FedAvg", "SecAgg", "SecAdam"]
    for number, row in enumerate(main[2:]):
        values = [100 * accuracy(number, seed) for seed in range(3)]
        mean, std = statistics.mean(values) - 1, statistics.stdev(values)
        assert row[1] == f"{mean:.1f} ({std:.1f})"
    assert grid_caption.startswith("Digits, LeNet-300-100: final test accuracy (%)")
    assert "200 local steps in all" in grid_caption, "66 rounds of 3 steps count as 200"
    assert steps[0] == ["Alpha", "Local steps", "FedAvg", "SecAgg", "SecAdam"]
    assert [row[:2] for row in steps[2:]] == [
        [f"{ALPHA} = {alpha}", number] for alpha in ("0.5", "1") for number in "123"
    ]
    assert steps[2][2:] == [row[1] for row in main[2:]]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rounds", 3000, "3,000 rounds"),
        ("clients", 100, "100 clients"),
        ("batch_size", 8, "batch size 8"),
        ("partition", "iid", "IID partition"),
        ("variant", "published", "published variant"),
        ("overrides", "client_rate=0.01", "client_rate=0.01"),
        ("aggregation", "protocol", "All sums under secure aggregation"),
    ],
)
def test_other_settings_get_tables_of_their_own(tmp_path, name, value, words):
    path = write(tmp_path / "results.csv", runs() + runs(**{name: value, "final_accuracy": 0.25}))
    found = markdown_tables(path)
    assert sorted({row[1] for row in rows[2:]} == {"25.0 (0.0)"} for _, rows in found) == [0, 1]
    assert sum(words in caption for caption, _ in found) == 1
    ((caption, rows),) = markdown_tables(path, "--select", f"{name}={value}")
    assert words in caption
    assert {row[1] for row in rows[2:]} == {"25.0 (0.0)"}


def test_a_run_that_is_there_twice_counts_once(tmp_path):
    path = write(tmp_path / "results.csv", [*runs(final_accuracy=0.9), *runs()[:6]])
    ((caption, rows),) = markdown_tables(path)
    assert "over 3 seeds" in caption
    assert rows[2][1] != "90.0 (0.0)", "the later one counts"
    assert rows[4][1] == "90.0 (0.0)"


def test_one_seed_and_diverged_runs(tmp_path):
    found = [RUN, RUN | {"algorithm": "fedadam", "status": "diverged", "final_accuracy": None}]
    path = write(tmp_path / "results.csv", found)
    ((caption, rows),) = markdown_tables(path, "--decimals", "2")
    assert caption.startswith("Final test accuracy (%), 1 seed. ")
    assert "†" not in caption, "it explains a mark that no cell has"
    assert rows[2:] == [["FedAvg", "50.00"], ["FedAdam", "diverged"]]


def test_ratios_that_different_parties_formed_are_never_averaged(tmp_path):
    shared = runs(aggregation="protocol")
    others = [run for run in shared if run["algorithm"] == "secagg"]
    secadam = [run for run in shared if run["algorithm"] == "secadam"]
    both = [
        run | {"ratio": ratio, "final_accuracy": run["final_accuracy"] + shift}
        for ratio, shift in (("masked", 0.0), ("committee", 0.1))
        for run in secadam
    ]
    path = write(tmp_path / "results.csv", others + both, evaluations(others + both))
    found = markdown_tables(path)
    said = ["ratios formed by a committee", "ratios formed by the server"]
    assert [words in caption for (caption, _), words in zip(found, said, strict=True)] == [True] * 2
    values = [[row[1] for row in rows[2:]] for _, rows in found]
    assert values[0][0] == values[1][0], "SecAgg stands beside each"
    assert float(values[0][1].split()[0]) == pytest.approx(float(values[1][1].split()[0]) + 10)
    run_report(FOLDER / "plot.py", "--results", path, "--output", tmp_path)
    names = {drawn.stem for drawn in tmp_path.glob("accuracy*.png")}
    assert names == {f"accuracy_digits_lenet_{ratio}" for ratio in ("committee", "masked")}


def test_protocol_and_clear_sums_side_by_side(tmp_path):
    protocol = [run for run in runs(aggregation="protocol") if run["algorithm"] != "fedavg"]
    mixed = [run for run in runs() if run["algorithm"] == "fedavg"] + protocol
    ((caption, rows),) = markdown_tables(write(tmp_path / "one.csv", mixed))
    assert "under secure aggregation for SecAgg, SecAdam, in the clear otherwise" in caption
    assert len(rows) == 5
    both = markdown_tables(write(tmp_path / "two.csv", mixed + runs(dataset="cifar10") + runs()))
    assert [rows[0][1:] for _, rows in both] == [
        ["Digits LeNet"],
        ["Digits LeNet", "CIFAR-10 LeNet"],
    ]
    assert [len(rows) for _, rows in both] == [5, 5], "FedAvg stands in both"


def test_rounds_to_convergence(tmp_path):
    wanted = {"convergence": 0.85, "rounds": 3000}
    found = runs(**wanted, rounds_to_convergence=120)
    found[0] |= {"rounds_to_convergence": 60}
    found[1] |= {"rounds_to_convergence": None}
    path = write(tmp_path / "results.csv", found + runs(**wanted | {"convergence": 0.9}))
    ((caption, rows),) = markdown_tables(path, "--convergence", "--bold")
    assert "at most 3,000 rounds" in caption
    assert "‡ stands for a run that did not get there" in caption
    assert rows[0] == ["Algorithm", "Digits (85%) LeNet", "Digits (90%) LeNet"]
    assert rows[2] == ["FedAvg", "**90 (42)‡**", "not reached"]
    assert rows[3] == ["SecAgg", "120 (0)", "not reached"]
    done = run_report(FOLDER / "result_tables.py", "--results", path, status=1)
    assert "try with --convergence" in done.stderr


def test_published_figures_beside_ours(tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text(
        "dataset,model,clients,algorithm,alpha,local_steps,metric,mean,std\n"
        "digits,lenet,10,secadam,0.5,1,final_accuracy,0.98765,0.00123\n"
        "digits,lenet,10,secadam,1.0,2,final_accuracy,0.9,0.1\n"
        "digits,lenet,75,fedavg,0.5,1,final_accuracy,0.1,0.1\n"
        "cifar10,lenet,10,fedavg,0.5,1,final_accuracy,0.1,0.1\n"
    )
    path = write(tmp_path / "results.csv", grid())
    (caption, main), (_, steps) = markdown_tables(path, "--paper", paper, "--bold")
    assert "Rows marked paper: as published" in caption
    assert main[-1] == ["SecAdam, paper", "98.8 (0.1)"], "not in bold"
    assert main[-2][1].startswith("**")
    assert len(main) == 6
    published = [row for row in steps if row[1].endswith("paper")]
    assert [row[1] for row in published] == ["1, paper", "2, paper"]
    assert published[1][2:] == [tables.DASH, tables.DASH, "90.0 (10.0)"]
    arguments = ("--results", path, "--paper", tmp_path / "none.csv")
    done = run_report(FOLDER / "result_tables.py", *arguments, status=1)
    assert done.stderr == f"--paper: there is no {tmp_path / 'none.csv'}\n"


def test_runs_outside_the_tables_are_mentioned(tmp_path):
    path = write(tmp_path / "results.csv", runs() + runs(alpha=7, dataset="cifar10"))
    done = run_report(FOLDER / "result_tables.py", "--results", path)
    assert "9 other runs" in done.stderr
    assert "CIFAR" not in done.stdout


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    path = write(tmp_path / "results.csv", [*grid(), *runs(rounds=50, status="diverged")])
    text = run_report(FOLDER / "result_tables.py", "--results", path, "--bold").stdout
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert len(labels) == len(set(labels)) == 3
    programs.compile_latex(tmp_path, text)


# --- plots -----------------------------------------------------------------------------------


def test_plots_beside_the_results_and_the_same_each_time(tmp_path):
    # As a user does: in the folder, with no options.
    for script in FOLDER.glob("*.py"):
        shutil.copy(script, tmp_path)
    found = [run for run in grid() if run["alpha"] == 0.5]
    found[2] |= {"status": "diverged"}
    history = evaluations(found[:9])
    write(tmp_path / "results.csv", found, history)
    paths = [Path(line) for line in run_report(tmp_path / "plot.py").stdout.splitlines()]
    assert [path.name for path in paths] == [
        f"{name}_digits_lenet.{kind}"
        for name in ("local_steps", "accuracy")
        for kind in ("pdf", "png")
    ]
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    first = [path.read_bytes() for path in paths]
    for data in first[::2]:
        assert b"/CIDFontType2" in data, "embedded TrueType"
        assert b"/Type3" not in data
        assert b"/CreationDate" not in data
    # Evaluations that a killed run left behind change nothing: neither doubles nor unfinished runs.
    doubles = [row | {"accuracy": 0.99} for row in history[:5]]
    unfinished = evaluations(runs(seed=9))
    results.history_path(tmp_path / "results.csv").unlink()
    results.append(
        tmp_path / "results.history.csv", doubles + history + unfinished, list(EVALUATION)
    )
    run_report(tmp_path / "plot.py")
    assert [path.read_bytes() for path in paths] == first


def test_each_setting_has_its_figure(tmp_path):
    found = [
        *runs(),
        *runs(rounds=50, alpha=0.25),
        *runs(model="softmax", partition="iid", alpha=None),
    ]
    path = write(tmp_path / "results.csv", found, evaluations(found))
    output = tmp_path / "out" / "figures"
    done = run_report(FOLDER / "plot.py", "--results", path, "--output", output)
    assert len(done.stdout.splitlines()) == 6
    assert {file.name for file in output.glob("*.png")} == {
        "accuracy_digits_lenet_alpha0-5_rounds200.png",
        "accuracy_digits_lenet_alpha0-25_rounds50.png",
        "accuracy_digits_softmax.png",
    }


def test_a_grid_without_history(tmp_path):
    path = write(tmp_path / "results.csv", grid())
    done = run_report(FOLDER / "plot.py", "--results", path)
    assert "left out: no results yet" in done.stderr
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "local_steps_digits_lenet.pdf",
        "local_steps_digits_lenet.png",
    ]


@pytest.mark.parametrize("script", ["plot.py", "result_tables.py"])
def test_wrong_choices(tmp_path, script):
    path = tmp_path / "results.csv"
    done = run_report(FOLDER / script, "--results", path, status=1)
    assert done.stderr == f"no results yet in {path}: run experiment.sh first\n"
    write(path, runs() + runs(dataset="cifar10"))
    arguments = ("--results", path, "--dataset", "mnist")
    done = run_report(FOLDER / script, *arguments, status=2)
    assert "no runs of mnist: choose from digits, cifar10" in done.stderr
    done = run_report(FOLDER / script, "--results", path, "--select", "ronuds=1", status=2)
    assert "no column ronuds" in done.stderr
    done = run_report(FOLDER / script, "--results", path, "--select", "rounds=1", status=1)
    assert "no such runs" in done.stderr


def test_nothing_to_draw(tmp_path):
    path = write(tmp_path / "results.csv", runs())
    done = run_report(FOLDER / "plot.py", "--results", path, status=1)
    assert "nothing to draw" in done.stderr
