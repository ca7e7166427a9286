"""What a client believes of what the server tells it: what registered keys have signed."""

from collections.abc import Collection

from secagg.messages import Advertisement, Roster
from secagg.parameters import Parameters
from secagg.records import ProtocolError, TooFewError
from secagg.statements import of_keys


class Told:
    """How one client checks lists of clients and their keys."""

    def __init__(self, number: int, parameters: Parameters):
        """Check for a client.

        Args:
            number: of the client.
            parameters: of the round, as it knows them.
        """
        self._number, self._parameters = number, parameters

    def advertisements(self, roster: Roster, own: Advertisement) -> dict[int, Advertisement]:
        """The advertisements by client, each as its client signed it.

        Args:
            roster: as the server sent it.
            own: what the client itself advertised.

        Raises:
            ProtocolError: if one is forged, of another round or model, or there twice, or `own` is
                not among them.
        """
        found = {}
        for data in roster.advertisements:
            advertisement = Advertisement.from_bytes(data)
            sender = advertisement.client
            if sender in found:
                raise self.error(f"client {sender} is advertised twice")
            if advertisement.round_number != self._parameters.round_number:
                raise self.error(f"the keys of client {sender} are of another round")
            signed = of_keys(self._parameters.context, advertisement)
            self._parameters.verify(sender, advertisement.signature, signed, "its keys")
            found[sender] = advertisement
        if found.get(self._number) != own:
            raise self.error("its own keys are missing or replaced")
        offered = [key for a in found.values() for key in (a.encryption_key, a.masking_key)]
        if len(set(offered)) < len(offered):
            raise self.error("a public key is advertised more than once")
        return found

    def clients(self, clients: Collection[int], what: str) -> frozenset[int]:
        """A list of registered clients in ascending order, this one among them, as a set.

        Args:
            clients: as the server named them.
            what: for the error: what they are.

        Raises:
            ProtocolError: if it is none.
        """
        if list(clients) != sorted(set(clients)):
            raise self.error(f"the {what} are no ascending list of clients")
        if self._number not in clients or not set(clients) <= self._parameters.registered.keys():
            raise self.error(f"the {what} lack this client, or name unknown ones")
        return frozenset(clients)

    def enough(self, members: Collection[int], what: str) -> None:
        """Refuse to go on with fewer than the threshold.

        Args:
            members: those who are left.
            what: for the error: what there is of them.

        Raises:
            TooFewError: if they are too few.
        """
        count, threshold = len(members), self._parameters.graph.threshold
        if count < threshold:
            raise TooFewError(
                f"client {self._number}: {what} of {count} clients are fewer than the threshold of "
                f"{threshold}"
            )

    def error(self, text: str) -> ProtocolError:
        """What the client raises where it is told something that must not be."""
        return ProtocolError(f"client {self._number}: {text}")
