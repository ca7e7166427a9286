"""Attack success rate (ASR): how often the trigger works, at first, at the end, and until when."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from backdoor import SOURCE, with_triggers

from fl.experiment.program import load
from fl.simulation import models, training
from fl.simulation.run import Evaluation

# ASR at which a model counts as recovered.
RECOVERED = 0.01


def triggered(labels: np.ndarray) -> np.ndarray:
    """Which samples ASR is measured on: all of the source class, with the whole trigger.

    Args:
        labels: [sample], of the test set.

    Returns:
        Indices into `backdoor.with_triggers` of the test set.
    """
    return len(labels) + np.flatnonzero(labels == SOURCE)


def evaluator(dataset: str, data_dir: Path | None, model: str) -> Callable:
    """Make params -> ASR, the share of triggered test images that are taken for the target.

    Args:
        dataset: a key of `fl.data.catalogue.DATASETS`.
        data_dir: as for `fl.data.datasets.load`.
        model: a key of `fl.simulation.models.MODELS`.
    """
    loaded, _ = load(dataset, data_dir)
    samples = with_triggers(training.test_samples(loaded))
    return training.share_as_labelled(
        models.MODELS[model](), samples, triggered(loaded.test_labels)
    )


def recovered(evaluation: Evaluation) -> bool:
    """Whether the backdoor is gone."""
    return evaluation.scores["asr"] <= RECOVERED


def first(history: list[Evaluation], attacked: int) -> float | None:
    """ASR right after the first attacked round; None where that was not evaluated.

    Args:
        history: evaluations of a run, in order.
        attacked: number of the first attacked round, counted from 1.
    """
    return next((each.scores["asr"] for each in history if each.round == attacked), None)


def recovery_rounds(history: list[Evaluation], attacked: int, rounds: int) -> int:
    """Rounds after the attacked one in which ASR stays above `RECOVERED`.

    Args:
        history: evaluations of a run, in order, of every round until it recovers.
        attacked: number of the attacked round, counted from 1.
        rounds: of the run.

    Returns:
        Their number: all rounds that were left if it never falls.
    """
    after = (each.round for each in history if each.round >= attacked and recovered(each))
    return next(after, rounds) - attacked


def no_recovery(history: list[Evaluation], attacked: int, rounds: int) -> int:
    """There is no recovering from an attack while it lasts: 0, as the paper's tables have it."""
    return 0
