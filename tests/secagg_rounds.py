"""Rounds of secure aggregation for the tests, to be played through or by hand."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import chisquare

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import graph, runner
from secagg.client import Client
from secagg.messages import Survivors
from secagg.parameters import Parameters
from secagg.records import ProtocolError
from secagg.server import Server
from secagg.statements import of_keys

ROUND = 7
KEYS = ("encryption_key", "masking_key")


@cache
def signing_keys(clients):
    return {client: Ed25519PrivateKey.generate() for client in range(clients)}


def setup(clients, threshold=None, entries=5, degree=None, **options):
    if degree:
        threshold = threshold or graph.majority(degree + 1)
        links = graph.harary(clients, graph.Degree(degree, threshold), 0)
    else:
        links = graph.everyone(clients, threshold)
    registered = {client: key.public_key() for client, key in signing_keys(clients).items()}
    return Parameters(ROUND, registered, links, entries, **options)


def vectors(clients, entries, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (clients, entries), dtype=np.uint64)


def play(params, data, dropping=None, finish=None):
    keys_of = signing_keys(params.clients)
    return runner.play(params, keys_of, lambda client, _: data[client], dropping, finish)


class Played:
    """A round that is played by hand up to some stage, so that it can be tampered with."""

    def __init__(self, clients=5, threshold=None, **options):
        self.params = setup(clients, threshold, **options)
        self.server = Server(self.params)
        keys_of = signing_keys(clients)
        self.clients = [Client(n, keys_of[n], self.params) for n in range(clients)]
        self.numbers = vectors(clients, self.params.entries)
        self.advertised = [client.advertise() for client in self.clients]

    def rosters(self):
        for n, advertisement in enumerate(self.advertised):
            self.server.receive(n, advertisement.to_bytes())
        return self.server.rosters()

    def deliveries(self):
        for n, roster in self.rosters().items():
            self.server.receive(n, self.clients[n].share(roster).to_bytes())
        return self.server.deliveries()

    def survivors(self):
        for n, delivery in self.deliveries().items():
            self.clients[n].receive(delivery)
            self.server.receive(n, self.clients[n].mask(self.numbers[n]).to_bytes())
        return self.server.survivors()

    def confirmations(self):
        survivors = self.survivors()
        for n, client in enumerate(self.clients):
            self.server.receive(n, client.confirm(survivors[n]).to_bytes())
        return self.server.confirmations()


def altered(data, place=-1):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def refused(sentence):
    return pytest.raises(ProtocolError, match=sentence)


def signed_by(client, advertisement):
    """An advertisement of `Played`'s round, signed with a client's key."""
    signed = of_keys(setup(5).context, advertisement)
    return replace(advertisement, signature=signing_keys(5)[client].sign(signed))


def without(survivors, *gone):
    """What a client is told of the survivors, but for some of them."""
    return Survivors(
        tuple(n for n in survivors.clients if n not in gone),
        {n: signature for n, signature in survivors.signatures.items() if n not in gone},
    )


class CheatingServer(Server):
    """One that takes whatever it gets."""

    def _check(self, sender, record):
        pass


def uniform(counts):
    return chisquare([counts[byte] for byte in range(256)]).pvalue > 1e-4
