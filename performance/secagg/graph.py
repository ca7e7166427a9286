"""Who deals with whom, and how many of them it takes.

With all neighbours this is Bonawitz et al. (CCS 2017). With fewer it is SecAgg+ (Bell et al., CCS
2020): clients sit in a circle in random order, and each shares secrets and pairwise masks with the
k nearest to it alone, a Harary graph. A client's work then grows with k, not with n.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import floor
from typing import NamedTuple

import numpy as np

# Of the number of neighbours: all others, or as few as are safe.
ALL, AUTO = "all", "auto"
# What k is chosen for, unless said, and K judged by: the shares of clients that drop out at most,
# and that tell the server all they know; and the probabilities, as powers of two, that a round then
# fails or leaks.
DROPPING, CORRUPT = 0.1, 0.1
CORRECTNESS_BITS, SECURITY_BITS = 20, 40
# A K that a user gives is refused where a round leaks with a higher probability.
LEAST_SECURITY_BITS = 20


@dataclass(frozen=True)
class Graph:
    """Who deals with whom in a round.

    Attributes:
        neighbours: client -> the others that it deals with; symmetric.
        threshold: t, how many of a client's circle it takes to open one of its secrets, and how
            many of the committee to vouch for the survivors.
        committee: those by whose signatures all clients know that they were told the same, and who
            deal the common secret. With all neighbours everybody; else as many as a circle has, so
            that this work does not grow with n either.
    """

    neighbours: Mapping[int, frozenset[int]] = field(repr=False)
    threshold: int
    committee: frozenset[int] = field(repr=False)

    def __post_init__(self):
        """Refuse a graph under which the protocol promises nothing.

        Raises:
            ValueError: for fewer than two clients, neighbours that are not mutual, or unknown
                members of the committee; for a threshold that is not above half of those that a
                client deals with, or above all of them.
        """
        if len(self.neighbours) < 2:
            raise ValueError("secure aggregation takes at least two clients")
        mutual = all(
            other != client and client in self.neighbours.get(other, ())
            for client, others in self.neighbours.items()
            for other in others
        )
        if not mutual or not self.committee <= self.neighbours.keys():
            raise ValueError("neighbours must be mutual, others than oneself, and all known")
        sizes = [len(others) + 1 for others in self.neighbours.values()]
        sizes.append(len(self.committee))
        if self.threshold > min(sizes):
            raise ValueError(f"a threshold of {self.threshold} of {min(sizes)} clients")
        if 2 * self.threshold <= max(sizes):
            raise ValueError(
                f"a threshold of {self.threshold} of {max(sizes)} clients lets the server open "
                "both kinds of shares by showing two halves different survivors"
            )

    def circle(self, client: int) -> frozenset[int]:
        """A client and those that it deals with."""
        return self.neighbours[client] | {client}


class Degree(NamedTuple):
    """Parameters of SecAgg+.

    Attributes:
        neighbours: k, even.
        threshold: t, of k + 1.
    """

    neighbours: int
    threshold: int


def build(
    clients: int, neighbours: str | int, seed: int | list[int], gone: int | None = None
) -> Graph:
    """The graph that a user asks for.

    Args:
        clients: n.
        neighbours: `ALL`, `AUTO` for those of `choose_degree` (all, where it finds none), or k.
        seed: see `harary`.
        gone: for `AUTO`, how many clients drop out at most; by default 10 %.
    """
    degree = degree_of(clients, neighbours, gone)
    return harary(clients, degree, seed) if degree else everyone(clients)


def degree_of(clients: int, neighbours: str | int, gone: int | None = None) -> Degree | None:
    """k and t that a user asks for, None for all neighbours; arguments as of `build`."""
    if neighbours == ALL:
        return None
    if neighbours != AUTO:
        return Degree(neighbours, majority(neighbours + 1))
    gone = floor(DROPPING * clients) if gone is None else gone
    return choose_degree(clients, gone, floor(CORRUPT * clients))


def everyone(clients: int, threshold: int | None = None) -> Graph:
    """All are neighbours; t is that of `majority`, unless given."""
    numbers = frozenset(range(clients))
    neighbours = {client: numbers - {client} for client in range(clients)}
    return Graph(neighbours, majority(clients) if threshold is None else threshold, numbers)


def harary(clients: int, degree: Degree, seed: int | list[int]) -> Graph:
    """A Harary graph over a random permutation.

    Args:
        clients: n, at least 3.
        degree: k, even, from 2 to n - 1; and t.
        seed: of the permutation, as NumPy takes it. It must be drawn after it is settled who
            works with the server, and not by the server.

    Raises:
        ValueError: for a degree that is out of range or odd.
    """
    k = degree.neighbours
    if not 2 <= k < clients or k % 2:
        raise ValueError(f"a degree of {k} for {clients} clients: must be even, and below it")
    order = np.random.default_rng(seed).permutation(clients).tolist()
    steps = [step for step in range(-(k // 2), k // 2 + 1) if step]
    neighbours = {
        client: frozenset(order[(place + step) % clients] for step in steps)
        for place, client in enumerate(order)
    }
    return Graph(neighbours, degree.threshold, frozenset(order[: k + 1]))


def majority(members: int) -> int:
    """The default threshold: the smallest integer above two thirds."""
    return 2 * members // 3 + 1


def most_gone(clients: int, probability: float) -> int:
    """How many clients drop out at most, but for 2^-20, if each does with this probability."""
    from scipy.stats import binom  # as in `_more`

    return int(binom.isf(2.0**-CORRECTNESS_BITS, clients, probability))


def _more(than, clients, gone, drawn):
    """The probability that of so many drawn out of all clients more than some are gone."""
    # Takes a second to import, which runs in the clear need not wait for.
    from scipy.stats import hypergeom

    return hypergeom.sf(than, clients, gone, drawn)


@lru_cache
def choose_degree(clients: int, gone: int, corrupt: int) -> Degree | None:
    """The smallest degree at which a round succeeds, and is safe, but for small probabilities.

    t is the largest threshold that all circles reach though clients drop out, but for 2^-20 (a
    union bound over clients and the committee); `leak_bound` is at most 2^-40.

    Args:
        clients: n.
        gone: how many drop out at most.
        corrupt: how many work with the server at most.

    Returns:
        k and t; None where no k of at most half of the others will do. All had better be
        neighbours then, which is safe against more.
    """
    for k in range(2, (clients - 1) // 2 + 1, 2):
        lost = np.arange(k + 1)
        # If a client is itself gone, its secret takes t of its k neighbours.
        fails = (clients + 1) * _more(lost, clients - 1, gone, k)
        threshold = k - int(np.argmax(fails <= 2.0**-CORRECTNESS_BITS))
        if 2 * threshold <= k + 1:
            continue
        degree = Degree(k, threshold)
        if leak_bound(clients, degree, corrupt) <= 2.0**-SECURITY_BITS:
            return degree
    return None


def leak_bound(clients: int, degree: Degree | None, corrupt: int | None = None) -> float:
    """What the probability is at most that a cheating server learns more than one sum of a round.

    It does only if, for k = 2 h,

    * 2 t - (k + 1) or more of the committee are corrupt, so that it can vouch for two survivor
      sets, honest members signing but one; or
    * t or more of some client's neighbours are corrupt, who open its secrets by themselves; or
    * somewhere in the circle the honest survivors are parted. To the right of an honest client,
      whose seed t of its circle gave away, then h in a row are corrupt or did not survive. Only h
      to the left, itself, and the corrupt ones to the right can have given shares, so t - h - 1
      or more of these h are corrupt.

    A union bound (Bell et al., section 4, bound their graphs alike; recalled), with so many corrupt
    clients at random places; the last is by far the likeliest. Where it is above 1 it says nothing.

    Args:
        clients: n.
        degree: k and t; None for all neighbours.
        corrupt: how many work with the server; by default 10 %.
    """
    corrupt = floor(CORRUPT * clients) if corrupt is None else corrupt
    k, t = degree or (clients - 1, majority(clients))
    two_views = _more(2 * t - (k + 1) - 1, clients, corrupt, k + 1)
    opened = _more(t - 1, clients - 1, corrupt, k)
    # Where all are neighbours, nobody can be parted from the others.
    parted = _more(t - k // 2 - 2, clients - 1, corrupt, k // 2) if k < clients - 1 else 0
    return float(two_views + clients * (opened + parted))
