"""Reconstruction: an attack on what the server sees of each client, and on the aggregate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from attacks import ATTACKS
from label_inference import infer_labels
from optimise import Problem, solve
from runs import Run
from server_view import Observation
from threat_model import AttackerView, PublicKnowledge

from fl.data import sampling
from fl.simulation import models


class Reconstruction(NamedTuple):
    """What an attack makes of its observations.

    Attributes:
        images: [client, batch, height, width, channels] in [0, 1].
        labels: inferred, int32 [client, batch].
    """

    images: jax.Array
    labels: jax.Array


class Attacked(NamedTuple):
    """What came of an attack.

    Attributes:
        clients: reconstructions [client, batch] from each client's observation.
        aggregate: reconstructions [1, class] from the aggregate: one image of each class.
    """

    clients: Reconstruction
    aggregate: Reconstruction


def attack(run: Run, public: PublicKnowledge, seen: Observation) -> Attacked:
    """Attack every client's observation, and the aggregate.

    Args:
        run: of which the attack, its restarts and steps, the seed and the departures matter here.
        public: what everyone knows of the federation.
        seen: what the server sees.

    Raises:
        ValueError: for a model that the attack cannot take.
    """
    client_key, _ = keys(run)
    whom = f"{run.clients} clients"
    return Attacked(
        _attack_each(run, public, seen.clients, seen.params, client_key, whom),
        attack_aggregate(run, public, seen, models.CLASSES),
    )


def attack_aggregate(
    run: Run, public: PublicKnowledge, seen: Observation, images: int
) -> Reconstruction:
    """Attack the aggregate alone, for so many images; otherwise as `attack`."""
    _, key = keys(run)
    aggregate = jax.tree.map(lambda leaf: leaf[None], seen.aggregate)
    public = public._replace(batch=images)
    return _attack_each(run, public, aggregate, seen.params, key, "aggregate")


def _attack_each(run, public, observations, params, key, whom):
    chosen, most = ATTACKS[run.attack], run.overrides.attack_steps
    problem = chosen.problem(public, run.departures.idlg_scale)
    # Not every attack takes as many.
    problem = problem._replace(steps=min(problem.steps, most or problem.steps))
    view = AttackerView(observations, params, public)
    starts = run.restarts, run.departures.one_start
    return reconstruct(problem, view, key, *starts, bar_label=f"{run.attack}, {whom}")


def keys(run: Run) -> tuple[jax.Array, jax.Array]:
    """Random keys of a run's attacks on clients, and on the aggregate."""
    return tuple(jax.random.split(jax.random.key(sampling.run_seed(run.seed))))


def reconstruct(
    problem: Problem,
    view: AttackerView,
    key: jax.Array,
    restarts: int = 1,
    one_start: bool = False,
    bar_label: str | None = None,
) -> Reconstruction:
    """Infer labels and reconstruct images from every client's observation.

    Args:
        problem: what an attack makes of `view.public`.
        view: all that the attack may know. A client's part of the result depends neither on
            other clients' observations nor on how many there are.
        key: of the random starts.
        restarts: random starts on each client, at least 1; that of the smallest final loss counts.
        one_start: start every client's attack from the same images, as the published code does.
        bar_label: shown beside a progress bar; None for no bar.
    """
    clients = len(jax.tree.leaves(view.observations)[0])
    labels = jax.vmap(lambda seen: infer_labels(seen, view.public.batch))(view.observations)
    keys = jax.vmap(lambda client: jax.random.split(jax.random.fold_in(key, client), restarts))(
        jnp.zeros(clients, int) if one_start else jnp.arange(clients)
    )
    solution = solve(problem, view.observations, view.params, labels, keys, bar_label=bar_label)
    return Reconstruction(solution.images, labels)
