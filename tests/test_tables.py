"""Statistics over seeds, and tables of them: the right numbers, at the right places, typeset."""

import shutil
import statistics

import numpy as np
import pandas as pd
import programs
import pytest

from fl.experiment import summary, tables
from fl.experiment.names import display_name, display_order

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"

# --- statistics ------------------------------------------------------------------------------

RUNS = pd.DataFrame(
    [
        ("b", 1.0, 0.3, "ok"),
        ("a", np.nan, 0.5, "ok"),
        ("b", 1.0, 0.4, "ok"),
        ("b", 1.0, 0.9, "diverged"),
        ("b", 1.0, 0.8, "ok"),
        ("a", 1.0, np.nan, "diverged"),
        ("a", 2.0, np.nan, "ok"),
    ],
    columns=["algorithm", "alpha", "accuracy", "status"],
)


def test_mean_and_std_against_the_standard_library():
    stats = summary.mean_and_std(RUNS, ["algorithm", "alpha"], "accuracy")
    assert list(stats.columns[2:]) == ["mean", "std", "runs", "diverged", "missing"]
    diverged, missing, one, three = stats.itertuples(index=False)
    assert three.mean == pytest.approx(statistics.mean([0.3, 0.4, 0.8]))
    assert three.std == pytest.approx(statistics.stdev([0.3, 0.4, 0.8]))
    assert three[-3:] == (3, 1, 0)
    assert np.isnan(one.alpha)
    assert one.mean == 0.5
    assert np.isnan(one.std)
    assert np.isnan(diverged.mean)
    assert diverged[-3:] == (0, 1, 0)
    assert missing[-3:] == (0, 0, 1)


def test_order_of_groups():
    frame = RUNS.assign(algorithm=summary.ordered(RUNS["algorithm"], ["c", "b"]))
    stats = summary.mean_and_std(frame, ["algorithm", "alpha"], "accuracy")
    assert list(stats["algorithm"]) == ["b", "a", "a", "a"], "what is not listed goes last"
    assert list(stats["alpha"][1:3]) == [1.0, 2.0]


def test_groups_keep_types_and_empty_keys():
    keys = [key for key, _ in summary.groups(RUNS, ["algorithm", "alpha"])]
    assert keys[0] == {"algorithm": "b", "alpha": 1.0}
    assert any(np.isnan(key["alpha"]) for key in keys)


# --- tables ----------------------------------------------------------------------------------


SPECIAL = "50% & more_#1 {x} ~^\\ <a|b>"


def sample_stats():
    frame = pd.DataFrame(
        [
            (alpha, steps, name, 0.1 * number + 0.01 * seed * steps, "ok")
            for alpha in (f"{ALPHA} = 0.1", f"{ALPHA} = 1")
            for steps in (1, 10)
            for number, name in enumerate(["FedAvg", SPECIAL])
            for seed in range(3)
        ],
        columns=["alpha", "local_steps", "algorithm", "accuracy", "status"],
    )
    frame.loc[[0, 1, 9], "status"] = "diverged"
    frame["algorithm"] = summary.ordered(frame["algorithm"])
    stats = summary.mean_and_std(frame, ["alpha", "local_steps", "algorithm"], "accuracy")
    return stats.assign(text=tables.cell_texts(stats, 100, 1))


def test_cells_and_bold():
    stats = sample_stats()
    cells = tables.text_table(stats, ["alpha", "local_steps"], ["algorithm"])
    plain = cells.map(lambda text: text.replace(tables.FIGURE_SPACE, ""))
    assert list(plain["FedAvg"]) == [
        f"2.0 ({tables.DASH})††",
        "10.0 (10.0)",
        "1.0 (1.0)",
        "10.0 (10.0)",
    ]
    assert plain.iloc[1, 1] == "25.0 (7.1)†"
    assert len({len(text.rstrip("†")) for text in cells["FedAvg"]}) == 1, "padded to one width"
    best = tables.best(stats, ["alpha", "local_steps"], ["algorithm"], "columns", decimals=3)
    assert best.to_numpy().tolist() == [[False, True]] * 4
    least = tables.best(stats, ["local_steps"], ["alpha", "algorithm"], largest=False)
    assert least.loc[1, (f"{ALPHA} = 1", "FedAvg")]
    assert not least.loc[10, (f"{ALPHA} = 1", "FedAvg")]


def test_absent_combinations_and_single_runs():
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["u", "v"], "value": [1.0, np.nan]})
    frame["a"] = summary.ordered(frame["a"], ["y"])
    stats = summary.mean_and_std(frame, ["a", "b"], "value")
    stats["text"] = tables.cell_texts(stats, decimals=0, missing="never")
    cells = tables.text_table(stats, ["a"], ["b"])
    assert list(cells.index) == ["y", "x"]
    assert cells.to_numpy().tolist() == [[tables.DASH, "never"], ["1", tables.DASH]]


def test_markdown():
    stats = sample_stats()
    cells = tables.text_table(stats, ["local_steps"], ["alpha", "algorithm"])
    bold = tables.best(stats, ["local_steps"], ["alpha", "algorithm"], "columns")
    heads, _, first, _ = programs.markdown_rows(tables.markdown_table(cells, bold))
    special = SPECIAL.replace("|", r"\|")
    assert heads[:3] == ["Local steps", f"{ALPHA} = 0.1 FedAvg", f"{ALPHA} = 0.1 {special}"]
    assert first[:3] == ["1", f"2.0 ({tables.DASH})††", "**11.0 (1.0)**"]


def test_latex():
    cells = pd.DataFrame({"A": ["1.0 (0.5)†", "2"]}, index=pd.Index(["x", "y"], name="algorithm"))
    text = tables.latex_table(cells, "caption", "tab:label", bold=cells == "2")
    assert r"x & 1.0 (0.5)\rlap{\textsuperscript{$\dagger$}} \\" in text, "marks take no room"
    assert r"y & \textbf{2} \\" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    stats = sample_stats()
    grouped = tables.text_table(stats, ["alpha", "local_steps"], ["algorithm"])
    spanned = tables.text_table(stats, ["local_steps"], ["alpha", "algorithm"])
    text = tables.latex_table(grouped, f"100% of {ALPHA} & † {{{tables.DASH}}} _", "tab:a_1")
    text += tables.latex_table(spanned, "", "tab:b", bold=spanned != "", wide=True)
    programs.compile_latex(tmp_path, text + "\\ref{tab:a_1}")
    assert "Missing character" not in (tmp_path / "paper.log").read_text()


# --- names -----------------------------------------------------------------------------------


def test_display_names():
    assert display_name("lenet") == "LeNet-300-100"
    assert display_name("lenet", short=True) == "LeNet"
    assert display_name("svhn_cropped", short=True) == "SVHN"
    assert display_name("something_new") == "something_new"
    keys = ["zzz", "secadam", "aaa", "fedavg", "zzz"]
    assert display_order(keys) == ["fedavg", "secadam", "zzz", "aaa"]
