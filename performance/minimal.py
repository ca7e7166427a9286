"""FedAvg and SecAdam from top to bottom, on handwritten digits: start reading here.

    python minimal.py --algorithm secadam

What the compiled engine computes, one client and one formula after another: the tests hold it to
this. Parameters are one vector w. Sums are in the clear here; the protocol is in the folder secagg.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

CLIENTS, ALPHA, BATCH, SEED = 10, 0.5, 32, 500
LAYERS = (256, 300), (300, 100), (100, 10)  # LeNet-300-100: inputs and outputs of dense layers


def digits():
    """Images [sample, pixel] in [0, 1], 16x16 pixels, and their labels."""
    bunch = load_digits()
    images = (bunch.images / 16).repeat(2, axis=1).repeat(2, axis=2)
    return images.reshape(len(images), -1), bunch.target


def latent_dirichlet(labels, clients, alpha, rng):
    """Indices of each client, by random shares in each class (Hsu et al. 2019); nobody has none."""
    pieces = []  # [class][client]
    for label, shares in enumerate(rng.dirichlet([alpha] * clients, size=10)):
        members = np.flatnonzero(labels == label)
        rng.shuffle(members)
        cuts = np.round(np.cumsum(shares) * len(members)).astype(int)[:-1]
        pieces.append(np.split(members, cuts))
    parts = [np.concatenate(own) for own in zip(*pieces, strict=True)]
    return parts if min(map(len, parts)) else latent_dirichlet(labels, clients, alpha, rng)


def initial_parameters(rng):
    """w: of each layer a matrix [inputs + 1, outputs] whose last row is the bias, in one vector."""
    layers = [np.vstack([rng.normal(size=(n, k)) / np.sqrt(n), np.zeros(k)]) for n, k in LAYERS]
    return jnp.asarray(np.concatenate([layer.ravel() for layer in layers]))


@jax.jit
def logits(w, x):
    """Images [batch, pixel] -> [batch, class]."""
    for n, k in LAYERS:
        layer, w = w[: (n + 1) * k].reshape(n + 1, k), w[(n + 1) * k :]
        x = x @ layer[:-1] + layer[-1:]
        x = jax.nn.relu(x) if len(w) else x  # but for the last one
    return x


def loss(w, x, y):
    """Mean cross-entropy of the softmax output."""
    return -jax.nn.log_softmax(logits(w, x))[jnp.arange(len(y)), y].mean()


gradient = jax.jit(jax.grad(loss))
pixel_gradient = jax.jit(jax.grad(loss, argnums=1))


def harden(w, x, y, step):
    """One step of PGD (Madry et al. 2018) towards higher loss, within 0.3 of x and in [0, 1]."""
    moved = x + step * jnp.sign(pixel_gradient(w, x, y))
    return jnp.clip(jnp.clip(moved, x - 0.3, x + 0.3), 0, 1)


class SGD:
    """Gradient descent."""

    rate = 0.1

    def step(self, w, g):
        """Parameters and gradient -> parameters."""
        return w - self.rate * g


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    rate, b1, b2, epsilon = 0.001, 0.9, 0.999, 1e-8
    t, m, v = 0, 0.0, 0.0

    def step(self, w, g):
        """Parameters and gradient -> parameters."""
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        self.m_hat = self.m / (1 - self.b1**self.t)
        self.v_hat = self.v / (1 - self.b2**self.t)
        return w - self.rate * self.m_hat / (jnp.sqrt(self.v_hat) + self.epsilon)


class Client:
    """Its samples, and an optimizer and a generator whose states live on from round to round."""

    def __init__(self, x, y, optimizer, seed):
        """Images, labels, optimizer, seed of the minibatches."""
        self.x, self.y, self.optimizer = x, y, optimizer
        self.rng = np.random.default_rng(seed)

    def train(self, w, local_steps):
        """Take local steps, a hardened minibatch each -> w_i."""
        for _ in range(local_steps):
            drawn = self.rng.choice(len(self.y), min(BATCH, len(self.y)), replace=False)
            x, y = self.x[drawn], self.y[drawn]
            x = harden(w, x, y, 0.01 * self.optimizer.rate)
            w = self.optimizer.step(w, gradient(w, x, y))
        return w


def fedavg(w, clients, local_steps):
    """A round of McMahan et al. 2017: clients send updates, the server subtracts their mean."""
    return w - sum(w - client.train(w, local_steps) for client in clients) / len(clients)


def secadam(w, clients, local_steps):
    """A round of SecAdam: clients send Adam's moments, the server steps along their ratio."""
    for client in clients:
        client.train(w, local_steps)
    m = sum(client.optimizer.m_hat for client in clients) / len(clients)
    v = sum(client.optimizer.v_hat + Adam.epsilon**2 for client in clients) / len(clients)
    u = m / jnp.sqrt(v)
    return w - 0.001 * u


ALGORITHMS = {"fedavg": (fedavg, SGD), "secadam": (secadam, Adam)}


def main():
    """Train, and print the test accuracy as it goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="secadam")
    one_round, optimizer = ALGORITHMS[parser.parse_args().algorithm]
    (x, test_x), (y, test_y) = (np.split(array, [1437]) for array in digits())
    parts = latent_dirichlet(y, CLIENTS, ALPHA, np.random.default_rng(SEED))
    clients = [Client(x[part], y[part], optimizer(), SEED) for part in parts]
    w = initial_parameters(np.random.default_rng(SEED))
    for number in range(1, 201):
        w = one_round(w, clients, local_steps=1)
        if number % 20 == 0:
            right = logits(w, test_x).argmax(1) == test_y
            print(f"round {number}: test accuracy {right.mean():.3f}")


if __name__ == "__main__":
    main()
