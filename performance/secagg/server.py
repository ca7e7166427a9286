"""The server: a state machine that collects a stage's messages, then goes on to the next.

Clients' messages come over channels that say who sent them (TLS, say): a client that speaks for
another is refused, and so is whatever other clients would refuse, as far as the server can tell, so
that one that cheats does not end the round for all. The server is given what travels and nothing
else; in the end it holds the sum.
"""

from collections import Counter

import numpy as np

from secagg import keys, unmasking
from secagg.checks import Checks
from secagg.messages import (
    Advertisement,
    Answer,
    Confirmation,
    Confirmations,
    Delivery,
    MaskedInput,
    Opening,
    Roster,
    SealedSum,
    Shares,
    Survivors,
    Unmasking,
)
from secagg.parameters import Parameters
from secagg.records import ProtocolError, Record, TooFewError

# What is collected in each stage; the last of them where vectors are sealed.
STAGES = (Advertisement, Shares, MaskedInput, Confirmation, Unmasking, Opening)


class Server:
    """One round's server."""

    def __init__(self, parameters: Parameters):
        """Wait for advertisements.

        Args:
            parameters: of the round.
        """
        self._parameters, self._graph = parameters, parameters.graph
        self._received: list[dict[int, Record]] = [{}]
        self._stages = STAGES if parameters.sealed else STAGES[:-1]
        self._checks = Checks(parameters, self._received)

    def receive(self, sender: int, data: bytes) -> None:
        """Take a client's message of the present stage.

        Args:
            sender: who sent it, as the channel says.
            data: what travelled.

        Raises:
            ProtocolError: if it is not this stage's, or the client's second, or another's, or
                wrongly signed, or not what it should hold, or if the client is not part of the
                round any more. The round can go on without it.
        """
        present = self._received[-1]
        if len(self._received) > len(self._stages):
            raise ProtocolError(f"client {sender} answers when all is over")
        record = self._read(sender, data, self._stages[len(self._received) - 1])
        if sender in present:
            raise ProtocolError(f"client {sender} answers twice")
        if sender not in self._expected():
            raise ProtocolError(f"client {sender} has no part in this stage")
        self._check(sender, record)
        present[sender] = record

    def rosters(self) -> dict[int, Roster]:
        """End stage 0: what each client is to be told of the others."""
        offered = {
            client: record.to_bytes() for client, record in self._close(Advertisement).items()
        }
        return {
            client: Roster(
                tuple(offered[other] for other in sorted(self._told(client) & offered.keys()))
            )
            for client in offered
        }

    def deliveries(self) -> dict[int, Delivery]:
        """End stage 1: what others encrypted for each client."""
        shares = self._close(Shares)
        sharers = tuple(sorted(shares))
        return {
            client: Delivery(
                {
                    sender: record.ciphertexts[client]
                    for sender, record in shares.items()
                    if client in record.ciphertexts
                },
                sharers,
            )
            for client in sharers
        }

    def survivors(self) -> dict[int, Survivors]:
        """End stage 2: who is left, and for each client, what its neighbours signed.

        Clients whose common secret is another than most of them have count as gone.

        Raises:
            ProtocolError: if fewer than the threshold have the same common secret.
        """
        inputs = self._close(MaskedInput)
        secret, most = Counter(record.agreed for record in inputs.values()).most_common(1)[0]
        if most < self._graph.threshold:
            raise ProtocolError(
                "clients have different common secrets: somebody dealt them different seeds"
            )
        for client in [n for n, record in inputs.items() if record.agreed != secret]:
            del inputs[client]
        clients = tuple(sorted(inputs))
        return {
            client: Survivors(
                clients,
                {
                    other: inputs[other].signature
                    for other in sorted(self._graph.neighbours[client] & inputs.keys())
                },
            )
            for client in clients
        }

    def confirmations(self) -> dict[int, Confirmations]:
        """End stage 3: for each client, the signatures of the others on the committee."""
        confirmed = self._close(Confirmation)
        signatures = {
            client: confirmed[client].signature
            for client in sorted(self._graph.committee & confirmed.keys())
        }
        return {
            client: Confirmations({n: s for n, s in signatures.items() if n != client})
            for client in confirmed
        }

    def total(self) -> np.ndarray:
        """End stage 4: the sum of the survivors' vectors, uint64 [entries] modulo 2^64.

        Where vectors are sealed, so is the sum, and it has more entries.

        Raises:
            TooFewError: if too few shares came of some secret.
            ProtocolError: if shares do not give the secret that they should.
        """
        answers = self._close(Unmasking)
        advertised, shared, inputs = self._received[:3]
        return unmasking.total(self._parameters, advertised, shared, inputs, answers)

    def sealed_sums(self, total: np.ndarray) -> dict[int, SealedSum]:
        """Begin stage 5: what each member of the committee that is left is to open."""
        told = SealedSum(total.astype("<u8", copy=False).tobytes())
        return dict.fromkeys(sorted(self._expected()), told)

    def speakers(self) -> tuple[int, ...]:
        """End stage 5: whom to ask for the answer, one after the other, until one gives it.

        Raises:
            ProtocolError: if fewer than the threshold say the same digest.
        """
        opened = self._close(Opening)
        self._digest, most = Counter(o.digest for o in opened.values()).most_common(1)[0]
        if most < self._graph.threshold:
            raise ProtocolError("too few of the committee say the same of the opened sum")
        return tuple(n for n in sorted(opened) if opened[n].digest == self._digest)

    def answer(self, sender: int, data: bytes) -> bytes:
        """Stage 6: what the sum comes to, from one of `speakers`.

        Args:
            sender: who sent it, as the channel says.
            data: what travelled.

        Raises:
            ProtocolError: if it is not what most of the committee say.
        """
        content = self._read(sender, data, Answer).content
        if keys.digest(content, self._parameters.context) != self._digest:
            raise ProtocolError(f"client {sender} says another answer than the committee")
        return content

    def _read(self, sender, data, kind):
        """A record of a kind, of this round and from whom the channel says."""
        if len(data) > self._parameters.longest:
            raise ProtocolError(f"client {sender} sends more than is due")
        record = kind.from_bytes(data)
        if record.client != sender:
            raise ProtocolError(f"client {sender} speaks for client {record.client}")
        if record.round_number != self._parameters.round_number:
            raise ProtocolError(f"client {sender} speaks of another round")
        return record

    def _expected(self):
        """Who may send a message in the present stage."""
        if len(self._received) == 1:
            return self._parameters.registered
        before = self._received[-2]
        if self._stages[len(self._received) - 1] is Opening:
            return self._graph.committee & before.keys()
        return before

    def _close(self, kind):
        """End the stage of a kind of record -> what was received in it, by client."""
        if kind not in self._stages[len(self._received) - 1 : len(self._received)]:
            raise RuntimeError(f"the stage of {kind.__name__} is not the present one")
        done = self._received[-1]
        if len(done) < self._graph.threshold:
            raise TooFewError(
                f"{len(done)} clients are left, fewer than the threshold of "
                f"{self._graph.threshold}: the round is abandoned"
            )
        self._received.append({})
        return done

    def _check(self, sender, record):
        self._checks.check(sender, record)

    def _told(self, client):
        """Whose keys a client needs: of those that it encrypts for, or that do so for it."""
        dealers = self._graph.committee if self._parameters.common else frozenset()
        return self._parameters.encrypts_for(client) | dealers | {client}
