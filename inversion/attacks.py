"""Gradient inversion attacks: what a server can reconstruct from what it sees.

An attack is a `Problem`, made from what is public; `reconstruct` solves it for all clients.

==============  ==========================================================================
representation  match the classifier's input (Zhang et al. 2022, arXiv:2202.10546)
idlg            match the gradient (Zhao et al. 2020, arXiv:2001.02610)
cosine          match the gradient's direction (Geiping et al. 2020, arXiv:2003.14053)
cpl             match gradient and predictions (Wei et al. 2020, arXiv:2004.10397)
analytic        divide weight by bias gradients of a dense first layer (see `analytic`)
==============  ==========================================================================

SecAdam's server observes m / sqrt(v), and Adam's clients send as much. The attacks take it for a
gradient all the same: it has the momentum's signs, and before the first round those are the
gradient's own.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from analytic import analytic
from matching import matcher
from observed import Observed, PublicFacts, infer_labels, layer_params
from optimise import Problem, solve

from fl.simulation.mapping import Mapper

# The paper's experiments use one optimizer for both of its attacks.
PAPER_OPTIMIZER = optax.adam(0.01)
PAPER_STEPS = 1000
REPRESENTATION_TV = 5e-4
# Geiping et al. run 4,800 steps or more of the same optimizer and choose the weight of TV for each
# experiment.
COSINE_RATE = 0.1
COSINE_STEPS = 1500
COSINE_TV = 1e-4
# Wei et al. give no value that suits every model: larger ones pull untrained models astray.
CPL_PREDICTIONS = 0.01


class Reconstruction(NamedTuple):
    """What an attack makes of its observations.

    Attributes:
        images: [client, batch, height, width, channels] in [0, 1].
        labels: inferred, int32 [client, batch].
        losses: final value of the attack's own loss, [client].
    """

    images: jax.Array
    labels: jax.Array
    losses: jax.Array


def reconstruct(
    attack: Callable[[PublicFacts], Problem],
    observed: Observed,
    key: jax.Array,
    restarts: int = 1,
    mapper: Mapper | None = None,
    bar_label: str | None = None,
) -> Reconstruction:
    """Infer labels and reconstruct images from every client's observation.

    Args:
        attack: one of the values of `ATTACKS`.
        observed: all that the attack may know. A client's part of the result depends neither on
            other clients' observations nor on how many there are.
        key: of the random starts.
        restarts: random starts on each client, at least 1; that of the smallest final loss counts.
        mapper: of the work onto hardware, by default the fastest.
        bar_label: shown beside a progress bar; None for no bar.

    Raises:
        ValueError: for a model that the attack cannot take.
    """
    clients = len(jax.tree.leaves(observed.observations)[0])
    labels = jax.vmap(lambda seen: infer_labels(seen, observed.facts.batch))(observed.observations)
    keys = jax.vmap(lambda client: jax.random.split(jax.random.fold_in(key, client), restarts))(
        jnp.arange(clients)
    )
    problem = attack(observed.facts)
    solution = solve(
        problem, observed.observations, observed.params, labels, keys, mapper, bar_label
    )
    return Reconstruction(solution.images, labels, solution.losses)


@lru_cache
def representation(facts: PublicFacts) -> Problem:
    """Match representations to the classifier's gradient (Zhang et al. 2022, arXiv:2202.10546).

    Minimises 1 - mean_b |cos(r_b, k_b)| + 5e-4 TV(Z), where r_b is image b's representation, k_b
    the observed column of the classifier's kernel for its label, and TV is summed over the batch.
    """

    def loss(images, observation, params, labels):
        columns = layer_params(observation, ("classifier",))["kernel"][:, labels].T
        found = facts.model.apply(params, images, method="representation")
        closeness = jnp.abs(jnp.sum(found * columns, axis=-1)) / (_norm(found) * _norm(columns))
        return 1 - closeness.mean() + REPRESENTATION_TV * total_variation(images)

    return Problem(_noise(facts), loss, PAPER_OPTIMIZER, PAPER_STEPS)


@lru_cache
def idlg(facts: PublicFacts, as_published: bool = False) -> Problem:
    """Match the gradient (Zhao et al. 2020, arXiv:2001.02610).

    Minimises |g(Z) - o / rate|^2, where g(Z) is the gradient at Z with the inferred labels and o
    the observation.

    Args:
        facts: what is public.
        as_published: leave the observation as it was sent, the learning rate times smaller.
    """
    match = matcher(facts)
    rate = 1.0 if as_published else _sent_rate(facts)

    def loss(images, observation, params, labels):
        return match(params, images, labels, observation).squared_distance(rate)

    return Problem(_noise(facts), loss, PAPER_OPTIMIZER, PAPER_STEPS)


@lru_cache
def cosine(facts: PublicFacts) -> Problem:
    """Match the gradient's direction (Geiping et al. 2020, arXiv:2003.14053, eq. 4).

    Minimises 1 - cos(g(Z), o) + 1e-4 TV(Z), where TV is the mean over pixels, with Adam on the
    gradient's signs. The step shrinks along a cosine, where Geiping et al. divide it by ten three
    times.
    """
    match = matcher(facts)

    def loss(images, observation, params, labels):
        distance = match(params, images, labels, observation).cosine_distance()
        return distance + COSINE_TV * total_variation(images, jnp.mean)

    schedule = optax.cosine_decay_schedule(COSINE_RATE, COSINE_STEPS)
    optimizer = optax.chain(optax.scale_by_sign(), optax.adam(schedule))
    return Problem(_noise(facts), loss, optimizer, COSINE_STEPS)


@lru_cache
def cpl(facts: PublicFacts) -> Problem:
    """Client privacy leakage (Wei et al. 2020, arXiv:2004.10397).

    Of the paper we take the squared distance of gradients, the label-based regularisation, which is
    the squared distance of predictions from the inferred labels, and the geometric initialisation:
    each image starts as a small random patch, repeated 2x2. Adam takes the place of L-BFGS, which
    did worse on the models here.
    """
    match = matcher(facts)
    rate = _sent_rate(facts)

    def loss(images, observation, params, labels):
        predictions = jax.nn.softmax(facts.model.apply(params, images))
        truth = jax.nn.one_hot(labels, predictions.shape[-1])
        distance = match(params, images, labels, observation).squared_distance(rate)
        return distance + CPL_PREDICTIONS * jnp.sum((predictions - truth) ** 2)

    return Problem(_patches(facts), loss, PAPER_OPTIMIZER, PAPER_STEPS)


ATTACKS: dict[str, Callable[[PublicFacts], Problem]] = {
    "representation": representation,
    "idlg": idlg,
    "cosine": cosine,
    "cpl": cpl,
    "analytic": lru_cache(analytic),
}


def total_variation(images: jax.Array, over: Callable = jnp.sum) -> jax.Array:
    """Absolute differences between neighbouring rows and between neighbouring columns.

    Args:
        images: [..., height, width, channels].
        over: how to reduce the differences: all of their sum, or the sum of the two means.

    Returns:
        A scalar.
    """
    return sum(over(jnp.abs(jnp.diff(images, axis=axis))) for axis in (-3, -2))


def _sent_rate(facts):
    """What a client multiplies its gradient, or what stands for it, by before sending it."""
    sends_moments = facts.algorithm.startswith("secadam")
    return 1.0 if sends_moments else facts.client_rate


def _norm(vectors):
    # A ReLU's representation can be all zero, where the norm has no derivative.
    return optax.safe_norm(vectors, 1e-12, axis=-1)


def _noise(facts):
    return lambda key, *_: jax.random.normal(key, (facts.batch, *facts.image_shape))


def _patches(facts):
    height, width, channels = facts.image_shape

    def init(key, *_):
        patch = (facts.batch, math.ceil(height / 2), math.ceil(width / 2), channels)
        return jnp.tile(jax.random.uniform(key, patch), (1, 2, 2, 1))[:, :height, :width]

    return init
