"""What the server refuses of a client's messages, beyond their form."""

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secagg import keys, shamir
from secagg.messages import Advertisement, Confirmation, MaskedInput, Shares, Unmasking
from secagg.parameters import Parameters
from secagg.records import ProtocolError, Record
from secagg.statements import of_keys, of_sharers, of_survivors


class Checks:
    """A round's. They end no round: whoever fails one is left out."""

    def __init__(self, parameters: Parameters, received: Sequence[Mapping[int, Record]]):
        """Look at what the server receives.

        Args:
            parameters: of the round.
            received: by stage and client, the server's own: it grows as the round goes on.
        """
        self._parameters, self._received = parameters, received
        self._keys: set[bytes] = set()
        self._probe = X25519PrivateKey.generate()

    def check(self, sender: int, record: Record) -> None:
        """Refuse what other clients would refuse, or what cannot be added up.

        Args:
            sender: who sent it, as the channel says and the record, too.
            record: of the present stage and round.

        Raises:
            ProtocolError: saying what is wrong with it.
        """
        match record:
            case Advertisement():
                self._check_keys(sender, record)
            case Shares():
                recipients = self._parameters.encrypts_for(sender) & self._received[0].keys()
                if record.ciphertexts.keys() != recipients:
                    raise ProtocolError(f"client {sender} does not share with all it deals with")
            case MaskedInput():
                if len(record.vector) != 8 * self._parameters.masked_entries:
                    raise ProtocolError(f"client {sender} sent a vector of another length")
                if len(record.agreed) != (keys.DIGEST_BYTES if self._parameters.common else 0):
                    raise ProtocolError(f"client {sender} signs a common secret that is not due")
                view = self._received[1], record.agreed
                signed = of_sharers(self._parameters.context, sender, *view)
                self._verify(sender, record, signed, "the sharers and common secret")
            case Confirmation():
                sharers, inputs = self._received[1:3]
                view = sharers, next(iter(inputs.values())).agreed, inputs
                signed = of_survivors(self._parameters.context, sender, *view)
                self._verify(sender, record, signed, "the survivors")
            case Unmasking():
                self._check_shares(sender, record)

    def _check_keys(self, sender, record):
        signed = of_keys(self._parameters.context, record)
        self._verify(sender, record, signed, "its keys")
        offered = {record.encryption_key, record.masking_key}
        if len(offered) < 2 or offered & self._keys:
            raise ProtocolError(f"client {sender} advertises a key that is there already")
        for key in offered:
            try:
                keys.agree(self._probe, key, "probe", self._parameters.context)
            except ProtocolError as error:
                raise ProtocolError(f"client {sender} advertises {error}") from error
        self._keys |= offered

    def _check_shares(self, sender, record):
        circle, (shared, inputs) = self._parameters.graph.circle(sender), self._received[1:3]
        left, gone = circle & inputs.keys(), circle & (shared.keys() - inputs.keys())
        if record.seed_shares.keys() != left or record.key_shares.keys() != gone:
            raise ProtocolError(f"client {sender} does not give the shares that it was asked for")
        given = (*record.seed_shares.values(), *record.key_shares.values())
        if not all(map(shamir.is_share, given)):
            raise ProtocolError(f"client {sender} gives a share that is none")

    def _verify(self, sender, record, signed, what):
        self._parameters.verify(sender, record.signature, signed, what)
