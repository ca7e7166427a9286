"""The protocol of secure aggregation in place of a sum in the clear.

It is an aggregator for the simulation: each round, every client's message is quantised, masked and
summed by `secagg`, played from the first message to the last on the host. SecAdam's clients send
q m and q^2 v, of which the server sees the sums: q, which they share and it lacks, cancels in the
ratio that it steps along.
"""

import hashlib
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secagg import graph, masks, runner
from secagg.messages import TooFewError
from secagg.parameters import Parameters
from secagg.quantise import Quantiser

from fl.simulation.algorithms import Moments
from fl.simulation.rounds import Aggregator

PyTree = Any

# The clip ranges: of an update, of q m, and of q^2 v. With q at most 4 they leave room for |m| up
# to 4 and v up to 1. On Fashion-MNIST a few hundred of 1.6e10 entries lie beyond; a wider range
# would round small second moments, of which there are many more.
UPDATE_CLIP, M_CLIP, V_CLIP = 4.0, 16.0, 16.0
# Stages of which a row says how long they take, for all clients and the server.
STAGES = runner.STAGES
# When a client may vanish: before it says anything, or after its message of a stage.
DROPPED_AFTER = ("", *runner.STAGES[:-1])


class Settings(NamedTuple):
    """How a federation runs the protocol.

    Attributes:
        clients: n.
        neighbours: with how many others a client deals, see `secagg.graph.build`.
        drop_out: probability with which a client vanishes in a round, at a random stage.
        seed: of who drops out, and of the clients' places in the circle of neighbours.
    """

    clients: int
    neighbours: str | int
    drop_out: float
    seed: int


class Protocol:
    """All rounds of a federation under secure aggregation, and what they took."""

    def __init__(self, settings: Settings):
        """Register the clients' keys."""
        self._settings = settings
        self._signing = {n: Ed25519PrivateKey.generate() for n in range(settings.clients)}
        self._registered = {n: key.public_key() for n, key in self._signing.items()}
        self._spent = Counter()
        self._played: set[int] = set()

    def aggregator(self) -> Aggregator:
        """The protocol as an aggregator; it remembers the rounds so far, and if the last counts."""

        def aggregate(messages, memory, received):
            number, _ = memory
            message, accepted = self._play(messages, int(number), received)
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
            }
        if rounds + spent["abandoned"] < rounds_run:
            return columns
        return columns | {name: spent[name] for name in ("clipped", "dropped", "abandoned")}

    def _play(self, messages: PyTree, number: int, received: PyTree) -> tuple[PyTree, bool]:
        """One round -> (mean message of the survivors, whether there is one)."""
        if number in self._played:
            raise ValueError(f"round {number} has been played: masks must not be used again")
        self._played.add(number)
        kind = _Moments if isinstance(messages, Moments) else _Update
        coded = kind(messages, self._settings.clients, number)
        if coded.diverged:
            # What is no number cannot be sent. The run ends as it would in the clear.
            return coded.none(), True
        try:
            parameters = self._parameters(number, coded, received)
            result = runner.play(parameters, self._signing, coded.vector, self._dropping(number))
        except TooFewError:
            self._spent["abandoned"] += 1
            return coded.none(), False
        self._note(result)
        self._spent["clipped"] += coded.clipped
        return coded.mean(result.total, len(result.survivors)), True

    def _parameters(self, number, coded, received):
        clients, neighbours, drop_out, seed = self._settings
        gone = graph.most_gone(clients, drop_out) if drop_out else None
        return Parameters(
            number,
            self._registered,
            graph.build(clients, neighbours, [seed, number, 0], gone),
            coded.entries,
            common=isinstance(coded, _Moments),
            broadcast=digest(received),
        )

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
                self._spent["unmask" if stage == "sum" else stage] += spent


def digest(received: PyTree) -> bytes:
    """What stands for a broadcast of the server in a round's parameters, 32 bytes (SHA-256)."""
    leaves, structure = jax.tree.flatten(received)
    found = hashlib.sha256(str(structure).encode())
    for leaf in map(np.asarray, leaves):
        found.update(f"{leaf.dtype.str} {leaf.shape} ".encode())
        found.update(np.ascontiguousarray(leaf))
    return found.digest()


class _Update:
    """Updates as integers: one vector of all entries."""

    def __init__(self, messages, clients, _):
        self._rows, self._unravel = _rows(messages)
        self._quantiser = Quantiser.for_sum(UPDATE_CLIP, clients)
        self.entries = self._rows.shape[1]
        self.clipped = 0

    def vector(self, client: int, _: bytes | None) -> np.ndarray:
        """What a client contributes, uint64 [entries]."""
        found = self._quantiser.quantise(self._rows[client])
        self.clipped += found.clipped
        return found.values

    def mean(self, total: np.ndarray, survivors: int) -> PyTree:
        """The mean message, from the sum over survivors."""
        return self._unravel(self._quantiser.restore(total) / survivors)

    @property
    def diverged(self) -> bool:
        """Whether there is anything that is not a number."""
        return bool(np.isnan(self._rows).any())

    def none(self) -> PyTree:
        """In place of a mean where there is none."""
        return self._unravel(np.full(self.entries, np.nan))


class _Moments:
    """SecAdam's moments as integers: q m, then q^2 v, each with a quantiser of its own."""

    def __init__(self, messages, clients, number):
        (self._m, self._unravel), (self._v, _) = map(_rows, messages)
        self._quantisers = [Quantiser.for_sum(clip, clients) for clip in (M_CLIP, V_CLIP)]
        self._number = number
        self.entries = 2 * self._m.shape[1]
        self.clipped = 0
        self._q = None, None  # the clients', expanded once instead of by each of them

    def vector(self, client: int, common: bytes) -> np.ndarray:
        """What a client contributes, uint64 [entries]."""
        if common != self._q[0]:
            self._q = common, masks.positive(common, self._number, self.entries // 2)
        q = self._q[1]
        numbers = q * self._m[client], q * q * self._v[client]
        found = [
            quantiser.quantise(part)
            for quantiser, part in zip(self._quantisers, numbers, strict=True)
        ]
        self.clipped += sum(each.clipped for each in found)
        return np.concatenate([each.values for each in found])

    def mean(self, total: np.ndarray, survivors: int) -> Moments:
        """The means of q m and q^2 v, whose ratio is the one that the server steps along."""
        m, v = (
            quantiser.restore(part) / survivors
            for quantiser, part in zip(self._quantisers, np.split(total, 2), strict=True)
        )
        # Second moments below half a unit are lost: where nothing is known, no step is taken.
        lost = v <= 0
        return Moments(self._unravel(np.where(lost, 0, m)), self._unravel(np.where(lost, 1, v)))

    @property
    def diverged(self) -> bool:
        """Whether there is anything that is not a number."""
        return bool(np.isnan(self._m).any() or np.isnan(self._v).any())

    def none(self) -> Moments:
        """In place of means where there are none."""
        nothing = self._unravel(np.full(self.entries // 2, np.nan))
        return Moments(nothing, nothing)


def _rows(stacked):
    """Pytrees stacked [client, ...] -> (float64 [client, entry], entries -> one pytree)."""
    leaves, structure = jax.tree.flatten(stacked)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]

    def unravel(entries):
        parts = np.split(entries, ends)
        return structure.unflatten(
            part.reshape(leaf.shape[1:]).astype(leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        )

    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    return rows.astype(np.float64), unravel
