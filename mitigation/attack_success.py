"""Attack success rate (ASR): how often the trigger works, at first, at the end, and until when."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from backdoor import SOURCE, with_triggers

from fl.experiment.program import evaluated, load
from fl.simulation import models, training
from fl.simulation.run import Evaluation

# ASR at which a model counts as recovered, and the rounds until then where it never does.
RECOVERED, NEVER = 0.01, 999


def triggered(labels: np.ndarray, without_last: int | None = None) -> np.ndarray:
    """Which samples ASR is measured on: all of the source class, with the whole trigger.

    Args:
        labels: [sample], of the test set.
        without_last: as for `fl.experiment.program.evaluator`.

    Returns:
        Indices into `backdoor.with_triggers` of the test set.
    """
    sources = np.flatnonzero(labels == SOURCE)
    return len(labels) + sources[: evaluated(len(sources), without_last)]


def evaluator(
    dataset: str, data_dir: Path | None, model: str, without_last: int | None = None
) -> Callable:
    """Make params -> ASR, the share of triggered test images that are taken for the target.

    Args:
        dataset: a key of `fl.data.catalogue.DATASETS`.
        data_dir: as for `fl.data.datasets.load`.
        model: a key of `fl.simulation.models.MODELS`.
        without_last: as for `fl.experiment.program.evaluator`.
    """
    loaded, _ = load(dataset, data_dir)
    samples = with_triggers(training.test_samples(loaded))
    indices = triggered(loaded.test_labels, without_last)
    return training.share_as_labelled(models.MODELS[model](), samples, indices)


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


def recovery_rounds(history: list[Evaluation], attacked: int) -> int:
    """Rounds after the attacked one until ASR is at most `RECOVERED`.

    Args:
        history: evaluations of a run, in order, of every round until it recovers.
        attacked: number of the attacked round, counted from 1.

    Returns:
        Their number: 0 if the attack never took, `NEVER` if ASR never falls.
    """
    after = (each.round for each in history if each.round >= attacked and recovered(each))
    return next((number - attacked for number in after), NEVER)


def no_recovery(history: list[Evaluation], attacked: int) -> int:
    """There is no recovering from an attack while it lasts: 0, as the paper's tables have it."""
    return 0
