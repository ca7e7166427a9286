"""Attacks on a window of rounds: on every watched client, a few at a time, and on the aggregate."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from adaptive import WindowAttack
from attacks import ATTACKS
from federation import Trained, watch_window
from reconstruction import Attacked, Reconstruction, keys
from runs import Run
from scores import UNKNOWN
from server_view import Behind, Truth
from threat_model import WindowView

from fl.progress import progress_bar
from fl.simulation import processes
from fl.simulation.mapping import groups

# Clients whose messages of a window are held at a time: a gigabyte for a hundred rounds of lenet.
AT_A_TIME = 8


class WindowAttacked(NamedTuple):
    """What came of an attack on a window.

    Attributes:
        attacked: reconstructions of each watched client's rounds, and of the aggregate's.
        ceiling: what the attack makes of the true gradients; None where it cannot take them.
        behind: the truth.
    """

    attacked: Attacked
    ceiling: Attacked | None
    behind: Behind


def attack_window(run: Run, trained: Trained) -> WindowAttacked | None:
    """Attack each watched client's messages, and the aggregate's.

    Args:
        run: of which the attack, its window and round, its clients and the seed matter here.
        trained: with a copy of the state before the window.

    Returns:
        What came of it; None in a process that does not lead.
    """
    public, attack = trained.public, ATTACKS[run.attack].problem(trained.public)
    client_key, global_key = keys(run)
    attacked = run.overrides.attack_clients
    watched = range(run.clients)[: run.clients if attacked is None else attacked]
    found, whole = [], None

    def attack_some(window, some, bar):
        nonlocal whole
        if whole is None:
            view = WindowView(window.aggregate, window.params, window.first, run.clients, public)
            whole = attack.reconstruct(view, global_key)
            bar.update()
        for place, client in enumerate(some):
            if run.clients == 1:  # its messages are the aggregate
                found.append(whole)
            else:
                own = jax.tree.map(lambda leaf, place=place: leaf[place], window.clients)
                view = WindowView(own, window.params, window.first, 1, public)
                found.append(attack.reconstruct(view, jax.random.fold_in(client_key, client)))
            bar.update()

    label = f"{run.attack}, {run.clients} clients" if processes.leads() else None
    with progress_bar(len(watched) + 1, label, "attack") as bar:
        for some in [watched[group] for group in groups(len(watched), AT_A_TIME)] or [watched]:
            # Of a single client the aggregate is all that there is to see.
            window, indices = watch_window(trained, run, some if run.clients > 1 else ())
            processes.by_leader(partial(attack_some, window, some, bar))
    if not processes.leads():
        return None
    attacked = _attacked(found, whole)
    # Matching directions reconstructs one round alone, taking gradients apart several.
    own, all_ = (len(images) for images in (found[0] if found else whole, whole))
    last = max(own, all_)
    params = jax.tree.map(lambda leaf: leaf[-last:], window.params)
    gradients = _gradients(trained, params, indices[-last:], watched)
    return WindowAttacked(
        attacked,
        _ceiling(attack, gradients, (own, all_), indices.shape, (client_key, global_key)),
        _behind(trained, indices, watched, own, all_),
    )


def _attacked(clients, aggregate):
    def reconstruction(images):
        return Reconstruction(images, np.full(images.shape[:2], UNKNOWN))

    own = jnp.concatenate(clients) if clients else aggregate[:0]
    return Attacked(reconstruction(own), reconstruction(aggregate))


def _behind(trained, indices, watched, of_clients, of_aggregate):
    """What clients trained on in the last rounds, of indices [round, client, step, batch]."""
    rounds, _, steps, batch = indices.shape
    present = np.tile(trained.start_sampler().weights[:, None] > 0, (rounds, 1, steps, 1))
    own = [
        np.swapaxes(each[-of_clients:], 0, 1)[list(watched)].reshape(-1, steps * batch)
        for each in (indices, present)
    ]
    whole = [each[-of_aggregate:].reshape(of_aggregate, -1) for each in (indices, present)]

    def truth(indices, present):
        images, labels = trained.samples.take(jnp.asarray(indices))
        return Truth(images, labels, jnp.asarray(present), indices)

    return Behind(truth(*own), truth(*whole))


def _gradients(trained, params, indices, watched):
    """Gradients at the parameters sent in each round, of watched clients and the mean of all.

    Args:
        trained: the federation.
        params: [round, ...].
        indices: of the minibatches [round, client, step, batch].
        watched: numbers of clients.

    Returns:
        Of each watched client, shaped like params, in a list; and of the mean likewise.
    """
    rounds, clients, steps, _ = indices.shape
    weights = np.tile(trained.start_sampler().weights / steps, (1, steps))

    @jax.jit
    def gradient(params, indices, weights):
        return trained.work.gradient(params, *trained.samples.take(indices), weights)[1]

    def of_round(number):
        sent = jax.tree.map(lambda leaf: leaf[number], params)
        own = [
            gradient(sent, indices[number, client].ravel(), weights[client])
            for client in range(clients)
        ]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / clients, *own)
        return jax.device_get((own[: len(watched)], mean))

    own, mean = zip(*map(of_round, range(rounds)), strict=True)

    def stacked(trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    return [stacked(of_client) for of_client in zip(*own, strict=True)], stacked(mean)


def _ceiling(attack: WindowAttack, gradients, rounds, drawn, of_clients_and_all):
    """What the attack makes of the gradients themselves, in the last rounds, as many as it did.

    Args:
        attack: the attack.
        gradients: of clients and of the mean, from `_gradients`.
        rounds: how many, of clients and of the mean.
        drawn: shape of the indices of minibatches.
        of_clients_and_all: the attack's keys.
    """
    (clients, mean), (own, all_), (client_key, global_key) = gradients, rounds, of_clients_and_all
    each = drawn[2] * drawn[3]

    def last(tree, count):
        return jax.tree.map(lambda leaf: leaf[-count:], tree)

    try:
        whole = attack.from_gradients(last(mean, all_), drawn[1] * each, global_key)
    except ValueError:
        return None
    found = [
        attack.from_gradients(last(of_client, own), each, jax.random.fold_in(client_key, number))
        for number, of_client in enumerate(clients)
    ]
    return _attacked(found, whole)
