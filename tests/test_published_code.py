"""Mitigation as published gives the numbers of the published code, round by round."""

import gzip
import os
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from experiments import load

from fl.data.datasets import Dataset
from fl.experiment import program
from fl.experiment.options import parse
from fl.simulation import training

# Written by the published code on 10 clients, seed 0, attacked from round 6 of 12 on: the mean
# loss and attack success after each round.
WRITTEN = pd.read_csv(Path(__file__).with_name("published_code_mitigation.csv"))
RAW = Path(os.environ.get("FL_FASHION_MNIST_RAW", "/usr/share/datasets/fashion-mnist"))
LINE = (
    "-d fashion_mnist -n 10 --rounds 12 --start-round 6 --attack continuous one_shot --as-published"
)

attack_success, federation, options, stages = load(
    "mitigation", "attack_success", "federation", "options", "stages"
)


def in_original_order():
    """Fashion-MNIST in the order of its original files, which the published code ran on."""
    arrays = []
    for part in ("train", "t10k"):
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
            with gzip.open(RAW / f"{part}-{kind}-ubyte.gz") as file:
                arrays.append(np.frombuffer(file.read(), np.uint8, offset=offset))
    images, labels, test_images, test_labels = arrays
    images, test_images = (pixels.reshape(-1, 28, 28, 1) for pixels in (images, test_images))
    labels, test_labels = (each.astype(np.int32) for each in (labels, test_labels))
    return Dataset("Fashion-MNIST", images, labels, test_images, test_labels, scale=255.0)


@pytest.fixture
def original_order(monkeypatch, tmp_path):
    if not RAW.is_dir():
        pytest.skip(f"no {RAW}: install dataset-fashion-mnist or set FL_FASHION_MNIST_RAW")
    dataset = in_original_order()
    loaded = dataset, training.training_samples(dataset)
    program.evaluator.cache_clear()
    for module in (program, federation, attack_success):
        monkeypatch.setattr(module, "load", lambda *_: loaded)
    for module in (federation, stages):  # which would look for the sources of these modules
        monkeypatch.setattr(module, "checkpoint_path", lambda *_: tmp_path / "checkpoint")
    yield
    program.evaluator.cache_clear()


@pytest.mark.real_data
def test_mitigation_follows_the_published_code_round_by_round(original_order):
    runs = list(options.grid(parse(options.Options, "", LINE.split())[0]))
    # JAX of that time drew other numbers from the same seed, initial parameters among them.
    with jax.threefry_partitionable(False):
        clean = federation.train(runs[0], None, None, 1)
    for run in runs:
        attacked = stages.attack(run, clean, None, 1)
        written = WRITTEN[WRITTEN["attack"] == run.attack]
        assert [each.round for each in attacked.history] == written["round"].tolist()
        losses = [each.loss for each in attacked.history]
        # The initial parameters differ in their last bit, which is 1e-5 here after 12 rounds.
        np.testing.assert_allclose(losses, written["loss"], atol=1e-4)
        asr = [each.scores["asr"] for each in attacked.history]
        np.testing.assert_allclose(asr, written["asr"], atol=1e-8)
