"""What clients make of the parcels that they deal one another."""

from collections.abc import Mapping

from secagg import keys, masks, shamir
from secagg.messages import Parcel
from secagg.parameters import Parameters
from secagg.records import ProtocolError
from secagg.seal import Seal


def opened(
    parameters: Parameters, key: bytes, ciphertext: bytes, sender: int, recipient: int
) -> Parcel:
    """A parcel, with what is due from this sender to this recipient.

    Args:
        parameters: of the round.
        key: that the two have in common.
        ciphertext: what the sender encrypted, as it arrived.
        sender: who it should be of.
        recipient: who opens it.

    Raises:
        ProtocolError: if it was altered, or does not hold what it should.
    """
    plaintext = keys.decrypt(key, ciphertext, parameters.context, sender, recipient)
    parcel = Parcel.from_bytes(plaintext)
    shares = parcel.seed_share, parcel.key_share
    in_circle = sender in parameters.graph.circle(recipient)
    fit = all(map(shamir.is_share, shares)) if in_circle else not any(shares)
    seed = masks.KEY_BYTES if parameters.deals(sender) else 0
    if not fit or len(parcel.common_seed) != seed:
        raise ProtocolError(
            f"client {recipient}: the parcel of client {sender} does not hold what it should"
        )
    return parcel


def common_secret(parameters: Parameters, seeds: Mapping[int, bytes]) -> bytes:
    """What clients have in common, 32 bytes, from the seeds of exactly the dealers that shared."""
    dealers = sorted(seeds)
    joined = b"".join(seeds[dealer] for dealer in dealers)
    return keys.derive(joined, "common secret", parameters.context, dealers)


def seal(parameters: Parameters, common: bytes) -> Seal:
    """What the common secret seals vectors with."""
    pad, tag = (keys.derive(common, purpose, parameters.context) for purpose in ("pad", "tag"))
    return Seal(pad, tag, parameters.round_number, parameters.clients)
