"""The algorithms as pseudocode has them: one client after another, one formula after another.

Plain and slow on purpose, and sharing nothing with `fl`: the compiled engine is held against it.
Parameters, gradients and moments are vectors. A minibatch is an array of sample indices, without
any filling; minibatches are nested [round][client][step]. Everything is computed in the float type
that JAX is in.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

EPSILON = 1e-8


def draw_minibatches(parts, batch_size, seeds, rounds, local_steps):
    """Draw each client's minibatches with the client's own generator, round after round."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    return [
        [
            [
                rng.choice(held, size=min(batch_size, len(held)), replace=False)
                for _ in range(local_steps)
            ]
            for held, rng in zip(parts, generators, strict=True)
        ]
        for _ in range(rounds)
    ]


class SGD:
    """Gradient descent."""

    def __init__(self, rate):
        self.rate = rate

    def step(self, w, g):
        return w - self.rate * g


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, rate, b1=0.9, b2=0.999):
        self.rate, self.b1, self.b2 = rate, b1, b2
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, w, g):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        self.m_hat = self.m / (1 - self.b1**self.t)
        self.v_hat = self.v / (1 - self.b2**self.t)
        return w - self.rate * self.m_hat / (jnp.sqrt(self.v_hat) + EPSILON)


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

    def train(self, optimizer, w, minibatches):
        """Take a client's local steps from w, and return where they end."""
        for minibatch in minibatches:
            x, y = self.images[minibatch], self.labels[minibatch]
            x = self.harden(w, x, y)
            loss, g = self._loss_and_gradient(w, x, y)
            self.losses.append(float(loss))
            w = optimizer.step(w, g)
        return w

    def harden(self, w, x, y):
        """One step of PGD, within 0.3 of x and within [0, 1]."""
        moved = x + self.eta * jnp.sign(self._pixel_gradient(w, x, y))
        return jnp.clip(jnp.clip(moved, x - 0.3, x + 0.3), 0, 1)


def mean(vectors):
    return sum(vectors) / len(vectors)


# A round: (task, w, the optimizers of the clients that take part, their minibatches) -> w.


def averaged(task, w, clients, this_round, server=None):
    """Clients send how far they went; the server steps along the mean of it."""
    server = server or SGD(1)
    updates = [
        w - task.train(client, w, batches)
        for client, batches in zip(clients, this_round, strict=True)
    ]
    return server.step(w, mean(updates))


def secadam_round(task, w, clients, this_round, server=None):
    """Clients send their moments; the server learns the ratio of the sums alone."""
    server, first, second = server or SGD(0.001), [], []
    for client, batches in zip(clients, this_round, strict=True):
        task.train(client, w, batches)
        first.append(client.m_hat)
        second.append(client.v_hat + EPSILON**2)
    return server.step(w, mean(first) / jnp.sqrt(mean(second)))


ROUNDS = {"adam": averaged, "secadam": secadam_round}


def algorithm(client, server, one_round):
    """Say how all rounds go: (task, minibatches, local steps) -> (w, the clients' optimizers)."""

    def run(task, minibatches, local_steps):
        w, clients, serving = task.w, [client() for _ in minibatches[0]], server(local_steps)
        for this_round in minibatches:
            w = one_round(task, w, clients, this_round, serving)
        return w, clients

    return run


def _sgd():
    return SGD(0.1)


def _adam():
    return Adam(0.001)


ALGORITHMS = {
    "fedavg": algorithm(_sgd, lambda _: SGD(1), averaged),
    "adam": algorithm(_adam, lambda _: SGD(1), averaged),
    "fedadam": algorithm(_sgd, lambda _: Adam(0.01), averaged),
    "secadam": algorithm(_adam, lambda _: SGD(0.001), secadam_round),
    "secadam_fedadam": algorithm(_adam, lambda e: Adam(0.001, 0.9**e, 0.999**e), secadam_round),
}
