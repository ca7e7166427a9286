"""How the server takes the masks off the sum, once it has the shares that this takes."""

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl.simulation.hardware import cores
from secagg import keys, masks, shamir
from secagg.messages import (
    Advertisement,
    MaskedInput,
    ProtocolError,
    Shares,
    TooFewError,
    Unmasking,
)
from secagg.parameters import Parameters


class _Pair(NamedTuple):
    """A client that is gone, and a neighbour that is not and masked its vector for it.

    Attributes:
        private: the masking key of the one that is gone.
        public: of the neighbour.
        subtract: whether the neighbour added the mask.
    """

    private: X25519PrivateKey
    public: bytes
    subtract: bool


def total(
    parameters: Parameters,
    advertised: Mapping[int, Advertisement],
    shared: Mapping[int, Shares],
    inputs: Mapping[int, MaskedInput],
    answers: Mapping[int, Unmasking],
) -> np.ndarray:
    """The sum of the survivors' vectors as they travelled, uint64 [masked_entries].

    Args:
        parameters: of the round.
        advertised: by client, as all that follows: what came in stage 0.
        shared: in stage 1.
        inputs: in stage 2, of the survivors.
        answers: in stage 4.

    Raises:
        TooFewError: if too few shares came of some secret.
        ProtocolError: if shares do not give the secret that they should.
    """
    number, context = parameters.round_number, parameters.context
    secrets = _Secrets(answers, parameters.graph.threshold)
    total = np.zeros(parameters.masked_entries, np.uint64)
    for survivor, record in inputs.items():
        committed = advertised[survivor].commitment
        seed = secrets.recover(
            survivor,
            "seed",
            lambda seed, n=survivor, c=committed: keys.commitment(seed, context, n) == c,
        )
        total += np.frombuffer(record.vector, "<u8")
        masks.add(total, keys.of_self_mask(seed, context), number, subtract=True)
    pairs = []
    for gone in shared.keys() - inputs.keys():
        partners = parameters.graph.neighbours[gone] & inputs.keys()
        if not partners:
            continue  # nobody added a mask that it lacks
        public = advertised[gone].masking_key
        private = X25519PrivateKey.from_private_bytes(
            secrets.recover(gone, "key", lambda key, public=public: keys.public(key) == public)
        )
        # What the partner added, or subtracted, and the other did not undo.
        pairs += [
            _Pair(private, advertised[partner].masking_key, partner < gone) for partner in partners
        ]
    return total + _masks_of(pairs, parameters)


def _masks_of(pairs, parameters):
    """What undoes the masks of pairs, uint64 [masked_entries].

    Most of a server's time goes here, so all cores do it. Threads will do: while a mask is expanded
    and added, others can run. While a key is agreed on, they cannot.
    """

    def of_some(some):
        part = np.zeros(parameters.masked_entries, np.uint64)
        for pair in some:
            key = keys.agree(pair.private, pair.public, "mask", parameters.context)
            masks.add(part, key, parameters.round_number, subtract=pair.subtract)
        return part

    threads = max(1, min(cores(), len(pairs)))
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(of_some, [pairs[first::threads] for first in range(threads)])
        return sum(parts)


class _Secrets:
    """Clients' secrets, from the shares that others gave of them."""

    def __init__(self, answers, threshold):
        self._threshold = threshold
        # Kind -> client -> point -> share: looked up once, not for each secret.
        self._shares = {kind: defaultdict(dict) for kind in ("seed", "key")}
        for holder, answer in sorted(answers.items()):
            for kind, of_clients in self._shares.items():
                for client, share in getattr(answer, f"{kind}_shares").items():
                    of_clients[client][holder + 1] = share
        # Points of those who have given a wrong share. It may be the fault of who dealt it, so that
        # their others are not refused, but used last: a liar costs the decoding of one secret, not
        # of all.
        self._doubted = set()

    def recover(self, client, kind, is_secret):
        """The secret of a kind, "seed" or "key", of a client."""
        shares = self._shares[kind][client]
        if len(shares) < self._threshold:
            raise TooFewError(f"the secrets of client {client} stay closed: too few shares came")
        if self._doubted:
            shares = dict(sorted(shares.items(), key=lambda given: given[0] in self._doubted))
        try:
            found = shamir.combine(shares, self._threshold, is_secret)
        except shamir.ShareError as error:
            raise ProtocolError(
                f"wrong shares of the {kind} of client {client}: {error}"
            ) from error
        self._doubted |= found.wrong
        return found.secret
