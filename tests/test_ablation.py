"""What each departure makes: pairs of runs of a seed that differ in it alone."""

import inversion_rows
import pandas as pd
import pytest
from programs import markdown_tables, run_report

from fl.experiment import ablation
from fl.experiment.ablation import ALONE, AMONG_ALL
from fl.experiment.comparison import Compared, Paper
from fl.experiment.layout import Metric

IDS = ("stale-update", "hardened-stale", "radius")
PAPER = Paper(
    path=None,
    keys=["dataset", "model", "eps"],
    metrics={"accuracy": Compared(Metric("accuracy", "", "Accuracy (%)", 100, 1), 0.005)},
    name=lambda row: str(row["eps"]),
    same=lambda frame: frame["clients"] > 1,
    acting=IDS,
)
RUN = {"dataset": "digits", "model": "lenet", "eps": None, "seed": 0, "status": "ok"}
RUN |= {"clients": 10, "overrides": None}


def effects(*runs):
    frame = pd.DataFrame(
        [
            RUN | {"departures": " ".join(ids) or None, "accuracy": value} | more
            for ids, value, more in runs
        ]
    )
    found = ablation.effects(frame, PAPER, ["accuracy"])
    return {
        (row.departure, row.kind): (pytest.approx(row.accuracy), row.seeds)
        for row in found.itertuples()
    }


def test_alone_and_among_all():
    found = effects(([], 0.5, {}), (["radius"], 0.6, {}), (IDS, 0.9, {}), (IDS[:2], 0.7, {}))
    # As published without both of the others is what has neither a whole nor its part.
    stale = {("stale-update", AMONG_ALL): (0.3, 1)}
    assert found == {("radius", ALONE): (0.1, 1), ("radius", AMONG_ALL): (0.2, 1), **stale}


def test_a_part_is_taken_out_and_run_together_with_the_whole():
    found = effects(
        *(([], 0.5, {}), (["stale-update"], 0.6, {}), (IDS[:2], 0.65, {})),
        *((IDS, 0.9, {}), (["radius"], 0.8, {})),
    )
    assert found["hardened-stale", ALONE] == (0.05, 1)
    assert found["stale-update", ALONE] == (0.1, 1)
    assert found["stale-update", AMONG_ALL] == (0.1, 1)
    assert ("hardened-stale", AMONG_ALL) not in found


def test_only_seeds_that_both_have_count_and_each_once():
    found = effects(
        *(([], 0.5, {}), ([], 0.4, {"seed": 1}), ([], 0.1, {"seed": 2})),
        *((["radius"], 0.6, {}), (["radius"], 0.7, {"seed": 1}), (["radius"], 0.0, {"seed": 3})),
    )
    assert found["radius", ALONE] == (0.2, 2)


@pytest.mark.parametrize(
    "other", [{"overrides": "clip_norm=0.001"}, {"clients": 1}, {"status": "diverged"}]
)
def test_guesses_other_settings_and_diverged_runs_are_left_out(other):
    assert effects(([], 0.5, {}), (["radius"], 0.6, other)) == {}


def test_runs_with_and_without_a_value_in_the_same_column_of_what_was_run():
    pairs = (([], 0.5, {}), (["radius"], 0.6, {}), ([], 0.7, {"eps": 1.0}))
    found = effects(*pairs, (["radius"], 0.9, {"eps": 1.0}))
    assert found["radius", ALONE] == (0.2, 1)
    assert len(found) == 1


def test_ablations_beside_the_results_are_read(tmp_path):
    as_in_the_paper = {"dataset": "fashion_mnist", "clients": 100, "rounds": 750, "converge": None}
    default = inversion_rows.RUN | as_in_the_paper
    path = inversion_rows.write(tmp_path / "results.csv", [default])
    alone = default | {"variant": "partial", "departures": "moments", "psnr": 14.5}
    beside = inversion_rows.write(tmp_path / "ablations.csv", [alone])
    [(caption, rows)] = markdown_tables(inversion_rows.FOLDER, path, "--ablate")
    assert caption.startswith("Fashion-MNIST, LeNet, 100 clients: FedAvg: what departures of")
    assert rows == [["Departure", "PSNR (dB) Alone", "PSNR (dB) Among all"], rows[1], rows[2]]
    assert rows[2] == ["moments", "-0.50", ""]
    beside.unlink()
    script = inversion_rows.FOLDER / "result_tables.py"
    said = run_report(script, "--results", path, "--ablate", status=1)
    assert "no such runs: give main.py --as-published=ID" in said.stderr
