"""The figures of the paper's section 6.2, and which runs they are compared with."""

from collections.abc import Mapping
from pathlib import Path

from runs import DEPARTURES

from fl.experiment.comparison import Compared, Paper
from fl.experiment.layout import ALPHA, Metric
from fl.experiment.names import display_name

KEYS = ["dataset", "model", "clients", "algorithm", "alpha", "local_steps"]
METRICS = {
    "final_accuracy": Compared(Metric("final_accuracy", "", "Test accuracy (%)", 100, 1), 0.005)
}
STEPS = 3000  # local ones in all


def _name(figure: Mapping) -> str:
    steps = f"{figure['local_steps']} local step" + ("s" if figure["local_steps"] > 1 else "")
    return f"{display_name(figure['algorithm'])}, {ALPHA} = {figure['alpha']:g}, {steps}"


def _same(frame):
    same = frame["rounds"] == STEPS // frame["local_steps"]
    same &= (frame["batch_size"] == 32) & (frame["partition"] == "lda")
    # Sums are the same under the protocol, and would count twice.
    return same & frame["convergence"].isna() & (frame["aggregation"] == "clear")


PAPER = Paper(Path(__file__).with_name("paper.csv"), KEYS, METRICS, _name, _same, DEPARTURES)
