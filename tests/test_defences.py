"""The registry of defences: names that join several, clients that they need, what they fill in."""

import jax
import jax.numpy as jnp
import pytest
from experiments import load

from fl.experiment.departures import Departures
from fl.simulation import pgd
from fl.simulation.models import MODELS

(defences,) = load("mitigation", "defences")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["none"], "none"),
        (["none", "pgd", "none"], "pgd"),
        (["pgd", "noise_clip", "median"], "median+noise_clip+pgd"),
        (["flip", "flip"], "flip"),
    ],
)
def test_several_defences_have_one_name(names, expected):
    assert defences.combine(names) == expected
    titles = [entry.title for entry in defences.parts(expected)]
    assert len(titles) == (0 if expected == "none" else expected.count("+") + 1)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["median", "foolsgold"], "median and foolsgold: only one of its kind"),
        (["pgd", "flip"], "pgd and flip: only one"),
        (["pgd", "magic"], "unknown 'magic': choose from none, noise_clip"),
    ],
)
def test_what_cannot_be_combined_is_refused(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        defences.combine(names)


@pytest.mark.parametrize(
    ("name", "tolerated", "least"),
    [("multi_krum", 4, 11), ("trimmed_mean+pgd", 5, 11), ("median", 30, 1), ("none", 30, 1)],
)
def test_too_few_clients_are_refused(name, tolerated, least):
    defences.check_clients(name, least, tolerated)
    if least > 1:
        with pytest.raises(ValueError, match=f"at least {least} clients, got {least - 1}"):
            defences.check_clients(name, least - 1, tolerated)


def setting(**values):
    given = {"model": MODELS["softmax"](), "tolerated": 1, "norm_bound": 1.0}
    given |= {"pgd_step": 0.1, "eps": None}
    return defences.Setting(**given | values)


def test_every_defence_fills_in_what_it_says():
    for name, entry in defences.DEFENCES.items():
        filled = defences.build(name, setting())
        assert set(filled) == {entry.kind, defences.HARDENING}
        assert all(filled.values())


def test_only_aggregators_look_at_single_messages():
    for entry in defences.DEFENCES.values():
        assert entry.needs_messages == (entry.kind == defences.AGGREGATOR)


def test_eps_bounds_pgd_where_it_is_narrower_than_the_step():
    images, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.array([0, 1])
    params = MODELS["softmax"]().init(jax.random.key(0), images)
    moved = {
        eps: float(
            jnp.abs(
                defences.build("pgd", setting(eps=eps))["harden"](params, images, labels) - 0.5
            ).max()
        )
        for eps in (None, 0.02, 0.3)
    }
    assert moved == pytest.approx({None: 0.1, 0.02: 0.02, 0.3: 0.1})
    undefended = defences.build("none", setting())["harden"]
    assert (undefended(params, images, labels) == pgd.none()(params, images, labels)).all()


def test_published_noise_is_the_same_every_round():
    step, keys = {"w": jnp.ones(100)}, [jax.random.PRNGKey(1), jax.random.PRNGKey(2)]
    for frozen in (True, False):
        departures = Departures(frozen_noise=frozen)
        guard = defences.build("noise_clip", setting(departures=departures))["guard"]
        first, second = (guard(step, key)["w"] for key in keys)
        assert bool((first == second).all()) == frozen
        # Scaled down to a norm of 0.01, plus noise of 1e-5 on each of 100 entries.
        assert float(jnp.linalg.norm(first)) == pytest.approx(0.01, rel=0.01)
        assert float(first.std()) == pytest.approx(1e-5, rel=0.3)
