"""How a model fares after an attack."""

from fl.simulation.run import Evaluation

# Attack success at which a model counts as recovered.
RECOVERED = 0.01


def recovered(evaluation: Evaluation) -> bool:
    """Whether the backdoor is gone."""
    return evaluation.scores["asr"] <= RECOVERED


def first_asr(cell: dict, history: list[Evaluation]) -> float | None:
    """Attack success right after the first attacked round; None without an attack."""
    if cell["attack"] == "none":
        return None
    after = (each.scores["asr"] for each in history if each.round == cell["start_round"] + 1)
    return next(after, None)


def recovery_rounds(cell: dict, history: list[Evaluation]) -> int | None:
    """Rounds after a one-shot attack in which attack success stays above `RECOVERED`.

    Returns:
        Their number: all rounds that were left if it never falls; 0 for a continuous attack, from
        which there is no recovering while it lasts; None without an attack.
    """
    if cell["attack"] == "none":
        return None
    if cell["attack"] == "continuous":
        return 0
    attacked = cell["start_round"] + 1
    after = (each.round for each in history if each.round >= attacked and recovered(each))
    return next(after, cell["rounds"]) - attacked
