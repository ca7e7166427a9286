"""What clients sign.

A statement names its kind, the client, and by a digest the round and all else that was known of it
before, so that no signature can be passed off as another.
"""

from collections.abc import Iterable

from secagg.messages import Advertisement
from secagg.records import statement


def of_keys(context: bytes, advertisement: Advertisement) -> bytes:
    """What a client signs when it advertises; `context` is that of the round's parameters."""
    offered = advertisement.encryption_key, advertisement.masking_key, advertisement.commitment
    return statement("keys", context, advertisement.client, *offered)


def of_sharers(context: bytes, client: int, sharers: Iterable[int], agreed: bytes) -> bytes:
    """What a client signs when it masks its vector.

    Args:
        context: of the round's parameters.
        client: who signs.
        sharers: all clients whose shares arrived, as it was told.
        agreed: digest of the common secret that it derived; empty where there is none.
    """
    return statement("sharers", context, client, sorted(sharers), agreed)


def of_survivors(
    context: bytes, client: int, sharers: Iterable[int], agreed: bytes, survivors: Iterable[int]
) -> bytes:
    """What a client signs when it confirms: that, and whose masked inputs arrived."""
    return statement("survivors", context, client, sorted(sharers), agreed, sorted(survivors))
