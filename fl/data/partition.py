"""Who holds which samples: partitions of a training set over clients.

Every partition returns one int64 array of sample indices a client. They differ in how the labels
are spread: latent Dirichlet allocation (Hsu et al. 2019, arXiv:1909.06335) is the experiments'
default.
"""

from collections.abc import Callable, Sequence

import numpy as np

# An allocation that leaves a client empty-handed is drawn again with the same generator, so that a
# partition which succeeds at once is the published one. More tries than this mean that the request
# itself is hopeless (for example, a hundred clients at alpha 0.01 on a few hundred samples).
MAX_DRAWS = 100


class PartitionError(ValueError):
    """The samples cannot be shared out as asked."""


def latent_dirichlet(
    labels: np.ndarray, clients: int, rng: np.random.Generator, alpha: float = 0.5
) -> list[np.ndarray]:
    """Share out each class by proportions drawn from a symmetric Dirichlet distribution.

    Args:
        labels: int [samples].
        clients: how many parts to make, at least 1.
        rng: draws the proportions of every class, then shuffles each class.
        alpha: concentration, above 0; the smaller, the fewer classes a client sees.

    Returns:
        The indices that each client holds; disjoint, covering every sample, none empty.

    Raises:
        PartitionError: where `MAX_DRAWS` draws in a row leave some client without a sample.
    """
    if not alpha > 0:
        raise PartitionError(f"alpha must be above 0, got {alpha}")
    _check_enough(labels, clients)
    for _ in range(MAX_DRAWS):
        parts = _draw_latent_dirichlet(labels, clients, rng, alpha)
        if min(map(len, parts)) > 0:
            return parts
    raise PartitionError(
        f"{MAX_DRAWS} draws at alpha {alpha} each left one of {clients} clients without any of the "
        f"{len(labels)} samples: use fewer clients or a larger alpha"
    )


def _draw_latent_dirichlet(labels, clients, rng, alpha):
    classes = np.unique(labels)
    proportions = rng.dirichlet([alpha] * clients, size=len(classes))
    parts = [[] for _ in range(clients)]
    for label, shares in zip(classes, proportions, strict=True):
        members = np.flatnonzero(labels == label)
        rng.shuffle(members)
        cuts = np.round(np.cumsum(shares) * len(members)).astype(int)[:-1]
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def homogeneous(
    labels: np.ndarray, clients: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Give every client all samples."""
    _check_enough(labels, clients, shared=True)
    return [np.arange(len(labels))] * clients


def iid(labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle the samples and cut them into parts of equal size, give or take one."""
    _check_enough(labels, clients)
    return np.array_split(rng.permutation(len(labels)), clients)


def shards(
    labels: np.ndarray, clients: int, rng: np.random.Generator, shards_per_client: int = 2
) -> list[np.ndarray]:
    """Sort by label, cut into equal shards and deal them out (McMahan et al. 2017).

    Args:
        labels: int [samples].
        clients: how many parts to make.
        rng: decides who gets which shards.
        shards_per_client: at least 1; two means that most clients see two classes.

    Raises:
        PartitionError: where there are fewer samples than shards.
    """
    _check_enough(labels, clients * shards_per_client)
    pieces = np.array_split(np.argsort(labels, kind="stable"), clients * shards_per_client)
    deal = rng.permutation(len(pieces)).reshape(clients, shards_per_client)
    return [np.concatenate([pieces[shard] for shard in hand]) for hand in deal]


def assigned_classes(
    labels: np.ndarray,
    clients: int,
    rng: np.random.Generator,
    classes: Sequence[Sequence[int]] | None = None,
) -> list[np.ndarray]:
    """Give each client samples of its own classes only; holders of a class share it equally.

    Args:
        labels: int [samples].
        clients: how many parts to make.
        rng: shuffles each class before it is cut.
        classes: the classes of each client, [client][any number]; by default client i has class
            i modulo the number of classes.

    Raises:
        PartitionError: where a client would hold nothing.
    """
    _check_enough(labels, clients)
    present = np.unique(labels)
    if classes is None:
        classes = [[present[client % len(present)]] for client in range(clients)]
    if len(classes) != clients:
        raise PartitionError(f"{len(classes)} lists of classes for {clients} clients")
    parts = [[] for _ in range(clients)]
    for label in present:
        holders = [client for client, own in enumerate(classes) if label in own]
        if holders:
            members = rng.permutation(np.flatnonzero(labels == label))
            for client, piece in zip(holders, np.array_split(members, len(holders)), strict=True):
                parts[client].append(piece)
    parts = [np.concatenate(part) if part else np.array([], int) for part in parts]
    empty = [client for client, part in enumerate(parts) if not len(part)]
    if empty:
        raise PartitionError(
            f"client {empty[0]} would hold no sample of its classes {list(classes[empty[0]])}: "
            "use fewer clients or other classes"
        )
    return parts


def _check_enough(labels, parts, shared=False):
    if parts < 1:
        raise PartitionError(f"at least one client is needed, got {parts}")
    if len(labels) < (1 if shared else parts):
        raise PartitionError(f"{len(labels)} samples cannot be cut into {parts} parts")


PARTITIONS: dict[str, Callable[..., list[np.ndarray]]] = {
    "lda": latent_dirichlet,
    "homogeneous": homogeneous,
    "iid": iid,
    "shards": shards,
    "classes": assigned_classes,
}
