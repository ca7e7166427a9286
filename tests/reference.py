"""The plain loops of performance/minimal.py, for any model, any samples and all algorithms.

Plain and slow on purpose, and sharing nothing with `fl`: the compiled engine is held against it.
Parameters, gradients and moments are vectors. A minibatch is an array of sample indices, without
any filling. Everything is computed in the float type that JAX is in.
"""

from typing import NamedTuple

import experiments
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

(minimal,) = experiments.load("performance", "minimal")


class SGD(minimal.SGD):
    """Gradient descent at some rate."""

    def __init__(self, rate):
        self.rate = rate


class Adam(minimal.Adam):
    """Adam at some rate, with some decays."""

    def __init__(self, rate, b1=0.9, b2=0.999):
        self.rate, self.b1, self.b2 = rate, b1, b2


class Task:
    """What clients train on, and how: hardened minibatches, mean cross-entropy."""

    def __init__(self, forward, params, images, labels, eta):
        """Set up training of `forward`: (params, images) -> logits, from `params`.

        `images` are in [0, 1]; `eta` is the step of PGD, 0 for none.
        """
        self.images, self.labels, self.eta = images, labels, eta
        self.w, self.unravel = ravel_pytree(params)
        self.losses = []  # of every local step

        def loss(w, x, y):
            logits = forward(self.unravel(w), x)
            probabilities = jnp.exp(logits) / jnp.exp(logits).sum(1, keepdims=True)
            return -jnp.log(probabilities[jnp.arange(len(y)), y]).mean()

        self._loss_and_gradient = jax.jit(jax.value_and_grad(loss))
        self._pixel_gradient = jax.jit(jax.grad(loss, argnums=1))

    def step(self, optimizer, w, minibatch):
        """Take a local step -> parameters."""
        x, y = self.images[minibatch], self.labels[minibatch]
        moved = x + self.eta * jnp.sign(self._pixel_gradient(w, x, y))
        x = jnp.clip(jnp.clip(moved, x - 0.3, x + 0.3), 0, 1)
        loss, g = self._loss_and_gradient(w, x, y)
        self.losses.append(float(loss))
        return optimizer.step(w, g)


class Client:
    """As `minimal.Client`, of a task."""

    def __init__(self, task, optimizer, held, batch_size, seed):
        self.task, self.optimizer, self.held = task, optimizer, held
        self.size, self.rng = min(batch_size, len(held)), np.random.default_rng(seed)

    def draw(self):
        """The next minibatch."""
        return self.rng.choice(self.held, size=self.size, replace=False)

    def train(self, w, local_steps):
        """Take local steps -> w_i."""
        for _ in range(local_steps):
            w = self.task.step(self.optimizer, w, self.draw())
        return w


class Algorithm(NamedTuple):
    """A round of `minimal`, and perhaps another optimizer at the server.

    Attributes:
        one_round: (w, clients, local steps) -> w.
        rate: that the server steps at there.
        optimizer: () -> a client's.
        server: local steps -> the optimizer in place of the server's own; None for that.
    """

    one_round: object
    rate: float
    optimizer: object
    server: object = None

    def run(self, w, clients, rounds, local_steps):
        """Run some rounds -> w."""
        server = self.server and self.server(local_steps)
        for _ in range(rounds):
            after = self.one_round(w, clients, local_steps)
            w = server.step(w, (w - after) / self.rate) if server else after
        return w


ALGORITHMS = {
    "fedavg": Algorithm(minimal.fedavg, 1, minimal.SGD),
    "adam": Algorithm(minimal.fedavg, 1, minimal.Adam),
    "fedadam": Algorithm(minimal.fedavg, 1, minimal.SGD, lambda _: Adam(0.01)),
    "secadam": Algorithm(minimal.secadam, 0.001, minimal.Adam),
    "secadam_fedadam": Algorithm(
        minimal.secadam, 0.001, minimal.Adam, lambda e: Adam(0.001, 0.9**e, 0.999**e)
    ),
}
