"""Parameters of a round: what does not fit or promises nothing is refused; all of it is signed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import graph
from secagg.parameters import Parameters
from secagg_rounds import ROUND, setup, signing_keys


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"round_number": -1}, "a round has a number from 0"),
        ({"round_number": 2**64}, "a round has a number from 0"),
        ({"entries": -1}, "entries must be"),
        ({"graph": graph.everyone(6)}, "not of the clients that are registered"),
        ({"graph": graph.everyone(4)}, "not of the clients that are registered"),
    ],
)
def test_parameters_that_do_not_fit_together(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(setup(5), **changed)


def test_clients_have_small_numbers():
    links = graph.everyone(2)
    numbers = {0: 0, 1: 2**20}
    moved = {numbers[n]: frozenset(numbers[m] for m in links.neighbours[n]) for n in numbers}
    key = signing_keys(2)[0].public_key()
    known = replace(links, neighbours=moved, committee=frozenset(moved))
    with pytest.raises(ValueError, match="clients have numbers below"):
        Parameters(ROUND, dict.fromkeys(moved, key), known, 5)


@pytest.mark.parametrize(
    ("clients", "threshold", "sentence"),
    [(1, 1, "at least two"), (4, 5, "threshold of 5 of 4"), (4, 2, "two halves")],
)
def test_parameters_that_promise_nothing(clients, threshold, sentence):
    with pytest.raises(ValueError, match=sentence):
        setup(clients, threshold)


def test_the_context_is_all_that_is_known_beforehand():
    known = setup(8, degree=4)
    others = [
        replace(known, round_number=ROUND + 1),
        replace(known, entries=6),
        replace(known, common=True),
        replace(known, broadcast=b"a model"),
        replace(known, registered=dict(known.registered) | {0: known.registered[1]}),
        replace(known, graph=replace(known.graph, threshold=5)),
        replace(known, graph=replace(known.graph, committee=frozenset(range(5)))),
        replace(known, graph=graph.harary(8, graph.Degree(4, 4), 1)),
    ]
    assert len({each.context for each in (known, *others)}) == 1 + len(others)
    assert setup(8, degree=4).context == known.context
