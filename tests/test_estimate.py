"""How long the runs that are left may take."""

from dataclasses import dataclass

import pandas as pd
import pytest

from fl.experiment.estimate import about


@dataclass(frozen=True)
class Run:
    dataset: str = "digits"
    model: str = "lenet"
    algorithm: str = "secadam"


HELD = pd.DataFrame(
    {
        "dataset": ["digits", "digits", "svhn_cropped", "digits"],
        "model": ["lenet", "lenet", "cnn1", "cnn1"],
        "algorithm": ["secadam", "fedavg", "fedavg", "fedavg"],
        "train_s": [100.0, 40.0, 7000.0, 70.0],
        "attack_s": [20.0, None, 200.0, 20.0],
        "backend": ["cpu", "cpu", "cpu", "gpu"],
    }
)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([Run()], "about 2 minutes at most"),
        ([Run(algorithm="fedavg")], "about 40 seconds at most"),
        ([Run(algorithm="adam")] * 3, "about 4 minutes at most"),  # as others of its task
        ([Run(dataset="digits", model="cnn1")] * 2, "about 4 hours at most"),
        ([Run(), Run(model="cnn2")], "about 2 minutes at most, and 1 of them nobody knows how"),
        ([Run(model="cnn2")], "there are no such runs on a cpu yet"),
    ],
)
def test_runs_take_as_long_as_those_most_like_them(runs, said):
    assert said in about(HELD, runs, "cpu")


def test_what_runs_took_on_another_backend_is_no_estimate():
    convolutional = [Run(model="cnn1", algorithm="fedavg")]
    assert about(HELD, convolutional, "gpu") == "about 90 seconds at most"
    assert "no such runs on a gpu yet" in about(HELD, [Run()], "gpu")
