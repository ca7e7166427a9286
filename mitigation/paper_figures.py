"""The figures of the paper's section 6.3, and which runs they are compared with."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from attacks import ATTACKS
from defences import parts
from runs import CERTIFICATE_OVERRIDES, DEPARTURES

from fl.experiment.comparison import Compared, Paper
from fl.experiment.layout import Metric

KEYS = ["dataset", "model", "attack", "defence", "eps"]
SETTING = {
    **{"algorithm": "secadam", "local_steps": 1, "batch_size": 32},
    **{"alpha": 0.5, "partition": "lda"},
}
ROUNDS = 3000  # of which the attack starts after two thirds
# Departures and overrides of the certificate, which training knows nothing of.
OF_CERTIFICATES = frozenset({"radius", "poison-share", "delta", *CERTIFICATE_OVERRIDES})
METRICS = {
    **{
        column: Compared(Metric(column, "", f"{name} (%)", 100, 1), 0.005, unmoved_by)
        for column, name, unmoved_by in (
            ("final_accuracy", "Accuracy", OF_CERTIFICATES),
            ("first_asr", "First attack success", OF_CERTIFICATES),
            ("final_asr", "Final attack success", OF_CERTIFICATES),
            ("certified_accuracy", "Certified accuracy", frozenset()),
            ("certified_asr", "Certified attack success", frozenset()),
        )
    },
    "recovery_rounds": Compared(
        Metric("recovery_rounds", "", "Rounds to recovery", 1, 1), 0.5, OF_CERTIFICATES
    ),
}


def _name(figure: Mapping) -> str:
    defence = " + ".join(entry.title for entry in parts(figure["defence"])) or "no defence"
    eps = "" if pd.isna(figure["eps"]) else f", eps = {figure['eps']:g}"
    return f"{ATTACKS[figure['attack']].title.removeprefix('a ')}, {defence}{eps}"


def _same(frame):
    clients = (frame["model"] == "cnn2").map({True: 75, False: 100}).astype(int)
    adversaries = [
        ATTACKS[attack].adversaries(count) if ATTACKS[attack].adversaries else 0
        for attack, count in zip(frame["attack"], frame["clients"], strict=True)
    ]
    same = (frame["clients"] == clients) & (frame["adversaries"] == adversaries)
    same &= 3 * frame["start_round"] == 2 * frame["rounds"]
    return same & (frame[list(SETTING)] == pd.Series(SETTING)).all(axis=1)


PATH = Path(__file__).with_name("paper.csv")
PAPER = Paper(PATH, KEYS, METRICS, _name, _same, DEPARTURES, ROUNDS)
