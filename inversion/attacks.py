"""Gradient inversion attacks: what a server can reconstruct from what it sees.

An attack is a `Problem`, made from what is public; `reconstruction` solves it for all clients.
`ATTACKS` says all about each: nothing else knows one by its name.

SecAdam's server observes m / sqrt(v), and Adam's clients send as much. All attacks but `adaptive`
take it for a gradient, of which it has little but the signs of the momentum. That they fail on it
is no evidence of privacy: `adaptive` knows Adam, and undoes the ratio.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from adaptive import WindowAttack, adaptive
from analytic import analytic
from exact import exact
from gradient_matching import matcher
from optimise import Problem
from threat_model import PublicKnowledge, layer_params

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

Build = Callable[[PublicKnowledge], Problem | WindowAttack]


class Attack(NamedTuple):
    """All that others need to know of an attack.

    Attributes:
        title: its name in plots and tables.
        build: what is public -> the problem that it solves, in so many steps. Raises ValueError
            for a model that it cannot take.
        build_published: the same as the published code has it; None where there is no difference.
        watches: whether it watches a window of rounds: then `build` makes a `WindowAttack`.
    """

    title: str
    build: Build
    build_published: Build | None = None
    watches: bool = False

    def problem(
        self, public: PublicKnowledge, as_published: bool = False
    ) -> Problem | WindowAttack:
        """Make the problem that the attack solves, or the attack on a window.

        Args:
            public: what everyone knows.
            as_published: as the published code has it.

        Raises:
            ValueError: for a model that it cannot take.
        """
        published = as_published and self.build_published is not None
        return (self.build_published if published else self.build)(public)


@lru_cache
def representation(public: PublicKnowledge) -> Problem:
    """Match representations to the classifier's gradient (Zhang et al. 2022, arXiv:2202.10546).

    Minimises 1 - mean_b |cos(r_b, k_b)| + 5e-4 TV(Z), where r_b is image b's representation, k_b
    the observed column of the classifier's kernel for its label, and TV is summed over the batch.
    """

    def loss(images, observation, params, labels):
        columns = layer_params(observation, ("classifier",))["kernel"][:, labels].T
        found = public.model.apply(params, images, method="representation")
        closeness = jnp.abs(jnp.sum(found * columns, axis=-1)) / (_norm(found) * _norm(columns))
        return 1 - closeness.mean() + REPRESENTATION_TV * total_variation(images)

    return Problem(_noise(public), loss, PAPER_OPTIMIZER, PAPER_STEPS)


@lru_cache
def idlg(public: PublicKnowledge, as_published: bool = False) -> Problem:
    """Match the gradient (Zhao et al. 2020, arXiv:2001.02610).

    Minimises |g(Z) - o / rate|^2, where g(Z) is the gradient at Z with the inferred labels and o
    the observation.

    Args:
        public: what is public.
        as_published: leave the observation as it was sent, the learning rate times smaller.
    """
    match = matcher(public)
    rate = 1.0 if as_published else public.sent_rate

    def loss(images, observation, params, labels):
        return match(params, images, labels, observation).squared_distance(rate)

    return Problem(_noise(public), loss, PAPER_OPTIMIZER, PAPER_STEPS)


@lru_cache
def cosine(public: PublicKnowledge) -> Problem:
    """Match the gradient's direction (Geiping et al. 2020, arXiv:2003.14053, eq. 4).

    Minimises 1 - cos(g(Z), o) + 1e-4 TV(Z), where TV is the mean over pixels, with Adam on the
    gradient's signs. The step shrinks along a cosine, where Geiping et al. divide it by ten three
    times.
    """
    match = matcher(public)

    def loss(images, observation, params, labels):
        distance = match(params, images, labels, observation).cosine_distance()
        return distance + COSINE_TV * total_variation(images, jnp.mean)

    schedule = optax.cosine_decay_schedule(COSINE_RATE, COSINE_STEPS)
    optimizer = optax.chain(optax.scale_by_sign(), optax.adam(schedule))
    return Problem(_noise(public), loss, optimizer, COSINE_STEPS)


@lru_cache
def cpl(public: PublicKnowledge) -> Problem:
    """Client privacy leakage (Wei et al. 2020, arXiv:2004.10397).

    Of the paper we take the squared distance of gradients, the label-based regularisation, which is
    the squared distance of predictions from the inferred labels, and the geometric initialisation:
    each image starts as a small random patch, repeated 2x2. Adam takes the place of L-BFGS, which
    did worse on the models here.
    """
    match = matcher(public)
    rate = public.sent_rate

    def loss(images, observation, params, labels):
        predictions = jax.nn.softmax(public.model.apply(params, images))
        truth = jax.nn.one_hot(labels, predictions.shape[-1])
        distance = match(params, images, labels, observation).squared_distance(rate)
        return distance + CPL_PREDICTIONS * jnp.sum((predictions - truth) ** 2)

    return Problem(_patches(public), loss, PAPER_OPTIMIZER, PAPER_STEPS)


def total_variation(images: jax.Array, over: Callable = jnp.sum) -> jax.Array:
    """Absolute differences between neighbouring rows and between neighbouring columns.

    Args:
        images: [..., height, width, channels].
        over: how to reduce the differences: all of their sum, or the sum of the two means.

    Returns:
        A scalar.
    """
    return sum(over(jnp.abs(jnp.diff(images, axis=axis))) for axis in (-3, -2))


def _norm(vectors):
    # A ReLU's representation can be all zero, where the norm has no derivative.
    return optax.safe_norm(vectors, 1e-12, axis=-1)


def _noise(public):
    return lambda key, *_: jax.random.normal(key, (public.batch, *public.image_shape))


def _patches(public):
    height, width, channels = public.image_shape

    def init(key, *_):
        patch = (public.batch, math.ceil(height / 2), math.ceil(width / 2), channels)
        return jnp.tile(jax.random.uniform(key, patch), (1, 2, 2, 1))[:, :height, :width]

    return init


# Plots and tables list attacks in this order.
ATTACKS = {
    "representation": Attack("Representation", representation),
    "idlg": Attack("iDLG", idlg, build_published=partial(idlg, as_published=True)),
    "cosine": Attack("Cosine", cosine),
    "cpl": Attack("CPL", cpl),
    "analytic": Attack("Analytic", lru_cache(analytic)),
    "exact": Attack("Exact", lru_cache(exact)),
    "adaptive": Attack("Adaptive", lru_cache(partial(adaptive, cosine)), watches=True),
}
