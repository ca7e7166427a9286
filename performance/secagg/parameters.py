"""What all parties know of a round before it begins: who takes part, and who deals with whom.

With all neighbours this is Bonawitz et al. (CCS 2017). With fewer it is SecAgg+ (Bell et al., CCS
2020): clients sit in a circle in random order, and each shares secrets and pairwise masks with the
k nearest to it alone, a Harary graph. A client's work then grows with k, not with n.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from scipy.stats import hypergeom

# What k is chosen for, unless said: the shares of clients that drop out, and that tell the server
# all they know; and the probabilities, as powers of two, that a round then fails or leaks.
DROPPING, CORRUPT = 0.1, 0.1
CORRECTNESS_BITS, SECURITY_BITS = 20, 40


@dataclass(frozen=True)
class Parameters:
    """A round's parameters.

    Attributes:
        round_number: at least 0, never used twice with the same registered keys.
        registered: client -> Ed25519 public key, known to all parties beforehand.
        threshold: t, how many of those that a client deals with, itself included, give its secrets.
        entries: length of the vectors that are added up.
        neighbours: client -> the others that it deals with; symmetric.
        common: whether clients agree on a secret that the server does not learn.
    """

    round_number: int
    registered: Mapping[int, Ed25519PublicKey]
    threshold: int
    entries: int
    neighbours: Mapping[int, frozenset[int]] = field(repr=False)
    common: bool = False

    def __post_init__(self):
        """Refuse parameters under which the protocol promises nothing.

        Raises:
            ValueError: for fewer than two clients, or a threshold that is not above half of those
                that a client deals with, or above all of them.
        """
        if self.clients < 2:
            raise ValueError("secure aggregation takes at least two clients")
        smallest = min(map(len, self.neighbours.values())) + 1
        largest = max(map(len, self.neighbours.values())) + 1
        if self.threshold > smallest:
            raise ValueError(f"a threshold of {self.threshold} of {smallest} clients")
        if 2 * self.threshold <= largest:
            raise ValueError(
                f"a threshold of {self.threshold} of {largest} clients lets the server open both "
                "kinds of shares by showing two halves different survivors"
            )

    @property
    def clients(self) -> int:
        """Their number n."""
        return len(self.registered)

    def circle(self, client: int) -> frozenset[int]:
        """A client and those that it deals with."""
        return self.neighbours[client] | {client}

    @cached_property
    def dealers(self) -> frozenset[int]:
        """Those who give everybody a seed of the common secret.

        With all neighbours everybody; else as many as a client has neighbours, since each of them
        must encrypt for all others.
        """
        most = max(map(len, self.neighbours.values())) + 1
        return frozenset(sorted(self.registered)[:most])


def everyone(clients: int) -> dict[int, frozenset[int]]:
    """All are neighbours."""
    numbers = frozenset(range(clients))
    return {client: numbers - {client} for client in range(clients)}


def harary(clients: int, degree: int, seed: int | list[int]) -> dict[int, frozenset[int]]:
    """A Harary graph over a random permutation.

    Args:
        clients: n, at least 3.
        degree: k, even, from 2 to n - 1.
        seed: of the permutation, as NumPy takes it; the server must not be able to choose it.

    Raises:
        ValueError: for a degree that is out of range or odd.
    """
    if not 2 <= degree < clients or degree % 2:
        raise ValueError(f"a degree of {degree} for {clients} clients: must be even, and below it")
    order = np.random.default_rng(seed).permutation(clients).tolist()
    steps = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
    return {
        client: frozenset(order[(place + step) % clients] for step in steps)
        for place, client in enumerate(order)
    }


def majority(members: int) -> int:
    """The default threshold: the smallest integer above two thirds."""
    return 2 * members // 3 + 1


def choose_degree(clients: int, dropping: float = DROPPING, corrupt: float = CORRUPT) -> int | None:
    """The smallest degree k at which a round is safe and succeeds but for small probabilities.

    With t of `majority`, and by a union bound over clients (Bell et al., section 4.2): fewer than
    2 t - (k + 1) + 1 of a client's circle are corrupt, so that the server cannot open both kinds of
    shares even with two survivor sets; at least t of it survive; and honest survivors are
    connected, for which no k / 2 in a row may all be corrupt or gone.

    Args:
        clients: n.
        dropping: largest share of clients that drop out.
        corrupt: largest share of clients that work with the server.

    Returns:
        k, even; None where no k below n - 1 does, so that all must be neighbours.
    """
    bad, gone = math.floor(corrupt * clients), math.floor(dropping * clients)
    for degree in range(2, clients - 1, 2):
        threshold = majority(degree + 1)
        # The client itself is honest: its k neighbours are drawn from the n - 1 others.
        exposed = hypergeom.sf(2 * threshold - degree - 2, clients - 1, bad, degree)
        # It needs t of its circle; that it is itself gone is the worse case.
        failed = hypergeom.sf(degree - threshold, clients - 1, gone, degree)
        parted = min(1.0, corrupt + dropping) ** (degree // 2)
        if (
            clients * exposed <= 2.0**-SECURITY_BITS
            and clients * failed <= 2.0**-CORRECTNESS_BITS
            and clients * parted <= 2.0**-SECURITY_BITS
        ):
            return degree
    return None
