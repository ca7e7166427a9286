"""Attack success: on which images, at first, and until when."""

import numpy as np
import pytest
from experiments import load

from fl.simulation.run import Evaluation

attack_success, backdoor = load("mitigation", "attack_success", "backdoor")

ATTACKED = 11


def history(*asr):
    """Evaluations of every round from the one before the attack on."""
    rounds = range(ATTACKED - 1, ATTACKED - 1 + len(asr))
    return [
        Evaluation(number, 0.1, {"asr": value}) for number, value in zip(rounds, asr, strict=True)
    ]


def test_it_is_measured_on_every_image_of_the_source_with_the_whole_trigger():
    indices = attack_success.triggered(np.array([7, 3, 7, 0]))
    variants, images = np.divmod(indices, 4)
    assert images.tolist() == [0, 2]
    assert (variants == backdoor.WHOLE).all()


@pytest.mark.parametrize(
    ("asr", "expected"),
    [
        ((0.0, 0.005), 0),  # it never took
        ((0.0, 0.01), 0),
        ((0.0, 0.9, 0.5, 0.011, 0.01, 0.3), 3),
        ((0.0, *[0.9] * 10), 999),  # it stays
    ],
)
def test_recovery_counts_rounds_with_the_backdoor_after_the_attack(asr, expected):
    assert attack_success.recovery_rounds(history(*asr), ATTACKED) == expected
    assert attack_success.first(history(*asr), ATTACKED) == asr[1]


def test_what_was_not_evaluated_is_unknown():
    assert attack_success.first(history(0.0), ATTACKED) is None


def test_there_is_no_recovering_while_an_attack_lasts():
    assert attack_success.no_recovery(history(0.0, 0.9, 0.0), ATTACKED) == 0
