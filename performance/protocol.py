"""The protocol of secure aggregation in place of a sum in the clear.

It is an aggregator for the simulation: each round, every client's message is quantised, masked and
summed by `secagg`, played from the first message to the last on the host. What the server gets of
them, `coding` says.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import coding
import jax
import jax.numpy as jnp
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secagg import graph, runner
from secagg.parameters import Parameters
from secagg.records import TooFewError

from fl.simulation.rounds import Aggregator

PyTree = Any

# Stages of which a row says how long they take, for all clients and the server; what follows on
# the last of them counts as part of it.
STAGES = runner.STAGES
# When a client may vanish: before it says anything, or after its message of a stage.
DROPPED_AFTER = ("", *runner.STAGES[:-1])


class Settings(NamedTuple):
    """How a federation runs the protocol.

    Attributes:
        clients: n, those in a round.
        neighbours: with how many others a client deals, see `secagg.graph.build`.
        drop_out: probability with which a client vanishes in a round, at a random stage.
        seed: of who drops out, and of the clients' places in the circle of neighbours.
        ratio: who forms the ratio of moments, `coding.COMMITTEE` or `coding.MASKED`.
    """

    clients: int
    neighbours: str | int
    drop_out: float
    seed: int
    ratio: str = coding.COMMITTEE


class Protocol:
    """All rounds of a federation under secure aggregation, and what they took."""

    def __init__(self, settings: Settings):
        """Set up; a client's key is registered before the first round that it is in."""
        self._settings = settings
        self._keys = defaultdict(Ed25519PrivateKey.generate)
        self._spent = Counter()
        self._played: set[int] = set()

    def aggregator(self) -> Aggregator:
        """The protocol as an aggregator; it remembers the rounds so far, and if the last counts."""

        def aggregate(messages, memory, received, who):
            number, _ = memory
            message, accepted = self._play(messages, int(number), received, who)
            return message, (np.int32(number + 1), np.bool_(accepted))

        def init(message, clients):
            return jnp.zeros((), jnp.int32), jnp.ones((), bool)

        return Aggregator(init, aggregate, accepts=lambda memory: memory[1], on_host=True)

    def summary(self, rounds_run: int) -> dict[str, float]:
        """What a round took on average, as columns of results.csv, and what was lost in all.

        Averages are over the rounds that gave a sum.

        Args:
            rounds_run: of the whole run. Where an earlier process played some of them, the averages
                are over the others, and what was lost in all is not known.
        """
        spent, rounds = self._spent, self._spent["rounds"]
        columns = {}
        if rounds:
            columns = {
                "sent_bytes": round(spent["sent"] / rounds / self._settings.clients),
                "received_bytes": round(spent["received"] / rounds / self._settings.clients),
                **{f"{stage}_s": round(spent[stage] / rounds, 5) for stage in STAGES},
                "leak_bound": min(graph.leak_bound(self._settings.clients, self._degree()), 1.0),
            }
        if rounds + spent["abandoned"] < rounds_run:
            return columns
        return columns | {name: spent[name] for name in ("clipped", "dropped", "abandoned")}

    def _play(
        self, messages: PyTree, number: int, received: PyTree, who: Sequence[int]
    ) -> tuple[PyTree, bool]:
        """One round of some clients -> (mean message of the survivors, whether there is one).

        In it, clients go by their places.
        """
        if number in self._played:
            raise ValueError(f"round {number} has been played: masks must not be used again")
        self._played.add(number)
        coded = coding.code(messages, self._settings.clients, number, self._settings.ratio)
        if coded.diverged:
            # What is no number cannot be sent. The run ends as it would in the clear.
            return coded.none(), True
        try:
            signing = {place: self._keys[int(client)] for place, client in enumerate(who)}
            parameters = self._parameters(number, coded, received, signing)
            result = runner.play(
                *(parameters, signing, coded.vector, self._dropping(number)),
                coded.finish if coded.sealed else None,
            )
        except TooFewError:
            self._spent["abandoned"] += 1
            return coded.none(), False
        self._note(result)
        self._spent["clipped"] += coded.clipped
        return coded.mean(result.total, len(result.survivors), result.answer), True

    def _parameters(self, number, coded, received, signing):
        clients, seed, degree = self._settings.clients, self._settings.seed, self._degree()
        places = [seed, number, 0]
        return Parameters(
            number,
            {place: key.public_key() for place, key in signing.items()},
            graph.harary(clients, degree, places) if degree else graph.everyone(clients),
            coded.entries,
            coded.common,
            coded.sealed,
            broadcast=digest(received),
        )

    def _degree(self):
        """k and t, or None for all neighbours."""
        clients, drop_out = self._settings.clients, self._settings.drop_out
        gone = graph.most_gone(clients, drop_out) if drop_out else None
        return graph.degree_of(clients, self._settings.neighbours, gone)

    def _dropping(self, number):
        """Who vanishes in a round, and after which stage."""
        rng = np.random.default_rng([self._settings.seed, number, 1])
        vanishing = np.flatnonzero(rng.random(self._settings.clients) < self._settings.drop_out)
        self._spent["dropped"] += len(vanishing)
        return {int(client): str(rng.choice(DROPPED_AFTER)) for client in vanishing}

    def _note(self, result):
        self._spent["rounds"] += 1
        self._spent["sent"] += sum(result.sent.values())
        self._spent["received"] += sum(result.received.values())
        for seconds in (result.client_s, result.server_s):
            for stage, spent in seconds.items():
                self._spent[stage if stage in STAGES else STAGES[-1]] += spent


def digest(received: PyTree) -> bytes:
    """What stands for a broadcast of the server in a round's parameters, 32 bytes (SHA-256)."""
    leaves, structure = jax.tree.flatten(received)
    found = hashlib.sha256(str(structure).encode())
    for leaf in map(np.asarray, leaves):
        found.update(f"{leaf.dtype.str} {leaf.shape} ".encode())
        found.update(np.ascontiguousarray(leaf))
    return found.digest()
