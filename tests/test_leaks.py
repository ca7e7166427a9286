"""Plots and tables of what leaks to attacks that watch a window of rounds."""

import re
import shutil
import statistics

import matplotlib as mpl
import numpy as np
import programs
import pytest
from experiments import load
from inversion_rows import FOLDER, RUN, write
from programs import run_report

from fl.experiment import figures, results
from fl.experiment.tables import DASH

leaks, leak_figures, protection_figures = load(
    "inversion", "leaks", "leak_figures", "protection_figures"
)
SIGMA, EPSILON, DELTA = (
    "\N{GREEK SMALL LETTER SIGMA}",
    "\N{GREEK SMALL LETTER EPSILON}",
    "\N{GREEK SMALL LETTER DELTA}",
)
# Of an aggregate, far above chance.
WINDOW = RUN | {
    **{"algorithm": "secadam", "attack": "adaptive", "window": 100, "attack_round": 750},
    **{"rounds": 750, "converge": None, "batch_size": 1, "psnr": None, "ssim": None},
    **{"labels_recovered": None, "global_psnr": 30.0, "global_recovered": 0.5},
    **{"global_chance_psnr": 10.0, "global_ceiling_psnr": 90.0},
}
# A client's own messages, beside the aggregate's.
OWN = {"psnr": 40.0, "recovered": 1.0, "chance_psnr": 9.0, "ceiling_psnr": 100.0}
HEADS = ["Accuracy (%)", "PSNR (dB)", "Chance", "Gradient", "Images (%)"]


def leak(seed):
    return 30.0 + 1.3 * seed * (seed + 1)


def runs(**values):
    """Three seeds of a setting."""
    return [WINDOW | {"seed": seed, "global_psnr": leak(seed)} | values for seed in range(3)]


def tables(path, *arguments):
    return programs.markdown_tables(FOLDER, path, *arguments)


def cells(rows):
    """(group, row) -> cells of a table."""
    return {tuple(row[:2]): row[2:] for row in rows[2:]}


# --- tables ----------------------------------------------------------------------------------


def test_leak_stands_beside_chance_and_the_gradient(tmp_path):
    found = [
        *runs(clients=10, **OWN),
        *runs(clients=1, **OWN),
        *runs(clients=100, global_psnr=12.9, global_ceiling_psnr=None),
        *runs(clients=2, batch_size=8),
    ]
    ((caption, rows),) = tables(write(tmp_path / "results.csv", found))
    assert caption.startswith(
        "Digits, LeNet-300-100, SecAdam: reconstruction by the adaptive attack"
    )
    assert "over 3 seeds. LDA partition" in caption
    assert "750 rounds, round 750, window 100." in caption
    assert "§: within 3 dB of chance, where no leak is claimed" in caption
    assert "‡" not in caption
    assert [head.split(" ", 1)[1] for head in rows[0][2:]] == HEADS
    mean, std = (f([leak(seed) for seed in range(3)]) for f in (statistics.mean, statistics.stdev))
    far = [f"{mean:.1f} ({std:.1f})", "10.0 (0.0)", "90.0 (0.0)", "50 (0)"]
    found = cells(rows)
    # Of one client there is nothing but its own messages.
    one, all_of_them = "One client's own messages, batch size 1", "Aggregate, batch size 1"
    assert [*found] == [
        *[(one, "1"), (one, "10")],
        *[(all_of_them, "10"), (all_of_them, "100")],
        ("Aggregate, batch size 8", "2"),
    ]
    for place in ((one, "1"), (all_of_them, "10")):
        assert found[place] == ["80.0 (0.0)", *far]
    assert found[one, "10"][1:] == ["40.0 (0.0)", "9.0 (0.0)", "100.0 (0.0)", "100 (0)"]
    near = found[all_of_them, "100"]
    assert near[1:] == ["12.9 (0.0)§", "10.0 (0.0)", DASH, "50 (0)"]


def test_what_is_watched_and_done_has_rows_in_its_order(tmp_path):
    found = [
        *runs(protection="noise=0.5"),
        *runs(algorithm="dp_secadam", clip=1.0, noise=0.34567, epsilon=1.99998, delta=1e-5),
        *runs(algorithm="dp_secadam", clip=1.0, noise=0.1),
        *runs(protection="sign"),
        *runs(local_steps=3),
        *runs(),
        *runs(protection="float16"),
        *runs(attack_round=10),
        *runs(protection="noise=0.05"),
        *runs(window=50),
    ]
    ((caption, rows),) = tables(write(tmp_path / "results.csv", found))
    assert [row[1] for row in rows[2:]] == [
        "Round 10, window 100",
        "Round 750, window 50",
        "Round 750, window 100",
        "Round 750, window 100, 16 bits",
        "Round 750, window 100, Sign",
        "Round 750, window 100, Noise of 0.05",
        "Round 750, window 100, Noise of 0.5",
        f"Round 750, window 100, DP, C = 1, {SIGMA} = 0.1",
        f"Round 750, window 100, DP, C = 1, {SIGMA} = 0.346, {EPSILON} = 2, {DELTA} = 1e-05",
        "Round 750, window 100, 3 steps",
    ]
    assert "Accuracy: after the last round" in caption
    ((caption, rows),) = tables(tmp_path / "results.csv", "--select", "protection=sign")
    assert "window 100, Sign." in caption
    assert rows[2][1] == "10"


def test_what_varies_for_some_alone_has_a_table_beside_that_by_clients(tmp_path):
    found = [
        *[*runs(clients=5), *runs(clients=10), *runs(clients=100)],
        *[*runs(clients=5, window=50, **OWN), *runs(clients=2, protection="sign")],
    ]
    (caption, by_clients), (_, rows) = tables(write(tmp_path / "results.csv", found))
    assert "round 750, window 100." in caption
    assert [row[:2] for row in by_clients[2:]] == [
        ["Aggregate, batch size 1", clients] for clients in ("5", "10", "100")
    ]
    assert [row[:2] for row in rows[2:]] == [
        ["Aggregate of 2 clients, batch size 1", "Window 100, Sign"],
        ["Aggregate of 5 clients, batch size 1", "Window 50"],
        ["Aggregate of 5 clients, batch size 1", "Window 100"],
        ["One of 5 clients, batch size 1", "Window 50"],
    ]


def test_windows_stand_in_no_other_table(tmp_path):
    single = [RUN | {"attack": "cosine", "batch_size": 1, "rounds": 750, "converge": None}]
    path = write(tmp_path / "results.csv", single + runs(rounds=50) + runs(**OWN, clients=5))
    captions = [caption.split(",")[0] for caption, _ in tables(path)]
    # Of updates and of the aggregate.
    assert captions == [*["Reconstruction by the cosine attack"] * 2, "Digits", "Digits"]
    ((caption, _),) = tables(path, "--adaptive", "--select", "rounds=50")
    assert "50 rounds" in caption


def test_diverged_runs_and_missing_scores(tmp_path):
    found = runs() + runs(clients=5)
    found[0] |= {"status": "diverged", "global_psnr": None, "global_chance_psnr": None}
    for run in found[3:]:
        run |= {"status": "diverged", "global_psnr": None, "global_chance_psnr": None}
    ((caption, rows),) = tables(write(tmp_path / "results.csv", found))
    assert "† stands for a run that diverged" in caption
    assert [row[3].rstrip("†") for row in rows[2:]] == ["diverged", "35.2 (3.7)"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    # Every row at its longest.
    found = [
        *runs(clients=100, batch_size=16, global_psnr=9.0, attack_round=10, **OWN),
        *runs(clients=100, batch_size=16, window=200, protection="int8"),
        *runs(algorithm="dp_secadam", clip=0.01, noise=0.001, local_steps=10),
    ]
    path = write(tmp_path / "results.csv", found)
    text = run_report(FOLDER / "result_tables.py", "--results", path).stdout
    assert re.findall(r"\\label\{(.*)\}", text) == [
        *("tab:inversion-adaptive", "tab:inversion-adaptive-2")
    ]
    programs.compile_latex(tmp_path, text)


# --- plots -----------------------------------------------------------------------------------


def drawn(path, draw, *arguments):
    """Names and figures that a function draws of a results file."""
    with mpl.rc_context(figures.STYLE):
        return list(draw(leaks.leaks(results.read(path)), *arguments))


def marks(axis):
    """Points of the marks with error bars, by their colour and shape."""
    lines = [container.lines[0] for container in axis.containers]
    return {(x.get_color(), x.get_marker()): x.get_xydata().tolist() for x in lines}


def test_leak_by_images_mixed(tmp_path):
    found = [
        *runs(clients=1, global_psnr=50.0),
        *runs(clients=10, **OWN),
        *runs(clients=2, batch_size=8, global_psnr=20.0, global_chance_psnr=12.0),
        *runs(clients=10, batch_size=8, global_psnr=13.0, global_ceiling_psnr=None),
    ]
    ((name, figure),) = drawn(write(tmp_path / "a.csv", found), leak_figures.mixing_figures)
    assert name == "leak_images_digits_lenet_adaptive"
    (axis,) = figure.axes
    mean = statistics.mean(leak(seed) for seed in range(3))
    (one, eight) = (marks(axis)[look] for look in leak_figures.LOOKS[:2])
    np.testing.assert_allclose(one, [[1, 50], [10, mean]])
    np.testing.assert_allclose(eight, [[16, 20], [80, 13]])
    dotted = [each.get_xydata().tolist() for each in axis.lines if each.get_linestyle() == ":"]
    assert dotted == [[[1, 90], [10, 90]], [[16, 90]]]
    (chance,) = (each for each in axis.lines if each.get_label() == "Chance")
    assert chance.get_xydata().tolist() == [[1, 10], [10, 10], [16, 12], [80, 10]]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["Batch size 1", "Batch size 8"]
    assert {"True gradient", "Chance", "Within 3 dB of chance"} <= set(words)


def test_several_local_steps_are_lines_of_their_own(tmp_path):
    # As many images, and never averaged.
    found = [*runs(clients=10), *runs(clients=1), *runs(local_steps=10, clients=1, global_psnr=1.0)]
    ((_, figure),) = drawn(write(tmp_path / "a.csv", found), leak_figures.mixing_figures)
    points = [container.lines[0].get_xydata().tolist() for container in figure.axes[0].containers]
    assert [len(line) for line in points] == [2, 1]
    assert points[1] == [[10, 1]]


@pytest.mark.parametrize("column", leak_figures.TIMES)
def test_leak_over_the_rounds_has_a_panel_for_whose_messages_they_are(tmp_path, column):
    found = [
        *runs(clients=2, **{column: 20}, global_psnr=12.0),
        *runs(clients=2),
        *runs(clients=1, **{column: 20}),
        *runs(clients=1),
        *runs(clients=5),  # once alone, and in no panel
    ]
    path = write(tmp_path / "a.csv", found)
    ((name, figure),) = drawn(path, leak_figures.time_figures, column)
    assert name == f"{leak_figures.TIMES[column][0]}_digits_lenet_adaptive"
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["1 client, batch size 1", "Aggregate of 2 clients, batch size 1"]
    (points,) = marks(figure.axes[1]).values()
    mean = statistics.mean(leak(seed) for seed in range(3))
    np.testing.assert_allclose(points, [[20, 12], [WINDOW[column], mean]])


def test_accuracy_against_leak_above_chance(tmp_path):
    found = [
        *runs(global_psnr=30.0),
        *runs(global_psnr=20.0, protection="int8", final_accuracy=0.7),
        *runs(global_psnr=12.0, global_chance_psnr=11.0, local_steps=3),
        *runs(global_psnr=10.0, algorithm="dp_secadam", clip=1.0, noise=0.1, final_accuracy=0.2),
        *runs(clients=5),
    ]
    path = write(tmp_path / "a.csv", found)
    ((name, figure),) = drawn(path, protection_figures.protection_figures)
    assert name == "leak_protections_digits_lenet_adaptive"
    (axis,) = figure.axes
    assert axis.get_title() == "Aggregate of 10 clients, batch size 1"
    points = {marker: point for (_, marker), (point,) in marks(axis).items() if marker != "o"}
    np.testing.assert_allclose(points["s"], [10, 70])
    np.testing.assert_allclose(points["^"], [0, 20])
    (plain,) = (point for (color, _), (point,) in marks(axis).items() if color == "black")
    np.testing.assert_allclose(plain, [20, 80])
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"1 local step", "3 local steps", "8 bits, stochastic"} <= words
    assert f"DP, C = 1, {SIGMA} = 0.1" in words


def test_figures_are_of_what_there_are_runs_for(tmp_path):
    single = [RUN | {"algorithm": name} for name in ("fedavg", "secadam")]
    found = [
        *single,
        *runs(clients=10, **OWN),
        *runs(clients=5, **OWN),
        *runs(clients=10, attack_round=10),
        *runs(clients=10, rounds=50),
        *runs(clients=5, rounds=50),
    ]
    path = write(tmp_path / "results.csv", found)
    run_report(FOLDER / "plot.py", "--results", path)
    assert {file.name for file in (tmp_path / "figures").glob("*.png")} == {
        "scores_lenet_representation.png",
        "leak_images_digits_lenet_adaptive_rounds750.png",
        "leak_images_digits_lenet_adaptive_rounds50.png",
        "leak_rounds_digits_lenet_adaptive.png",
    }
    path = write(tmp_path / "one.csv", runs(**OWN))
    done = run_report(FOLDER / "plot.py", "--results", path, status=1)
    assert "nothing to draw" in done.stderr
