"""The figures of the paper's section 6.1, and which runs they are compared with."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from attacks import ATTACKS
from options import BATCH_SIZE
from runs import ATTACK_OVERRIDES, DEPARTURES
from settings import SIGMA

from fl.experiment.comparison import Compared, Paper
from fl.experiment.layout import Metric
from fl.experiment.names import display_name

KEYS = ["dataset", "model", "algorithm", "attack", "clip", "noise"]
SETTING = {"rounds": 750, "local_steps": 1, "alpha": 0.5, "partition": "lda", "restarts": 1}
# Options that the paper has none of.
ABSENT = ["window", "attack_round", "protection", "converge"]
# Departures and overrides of the attack and its scores, which training knows nothing of.
OF_SSIM = frozenset({"ssim-range"})
OF_ATTACKS = OF_SSIM.union(
    {"best-match", "stale-update", "hardened-stale", "one-start", "idlg-scale"}, ATTACK_OVERRIDES
)
METRICS = {
    "final_accuracy": Compared(
        Metric("final_accuracy", "", "Accuracy (%)", 100, 1), 0.005, OF_ATTACKS
    ),
    "psnr": Compared(Metric("psnr", "", "PSNR (dB)", decimals=2), 0.15, OF_SSIM),
    "ssim": Compared(Metric("ssim", "", "SSIM"), 0.01),
}


def _name(figure: Mapping) -> str:
    name = display_name(figure["algorithm"])
    if figure["attack"] != "representation":
        name += f", {ATTACKS[figure['attack']].title}"
    if pd.notna(figure["clip"]):
        name += f", C = {figure['clip']:g}, {SIGMA} = {figure['noise']:g}"
    return name


def _same(frame):
    batch = (frame["attack"] == "idlg").map({True: 1, False: BATCH_SIZE})
    clients = (frame["model"] == "cnn2").map({True: 75, False: 100}).astype(int)
    same = (frame["batch_size"] == batch) & (frame["clients"] == clients)
    same &= (frame[list(SETTING)] == pd.Series(SETTING)).all(axis=1)
    return same & frame[ABSENT].isna().all(axis=1)


PAPER = Paper(Path(__file__).with_name("paper.csv"), KEYS, METRICS, _name, _same, DEPARTURES)
