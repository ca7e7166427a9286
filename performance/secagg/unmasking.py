"""How the server takes the masks off the sum, once it has the shares that this takes."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from fl.simulation.hardware import cores
from secagg import keys, masks, shamir
from secagg.messages import Advertisement, MaskedInput, Shares, Unmasking
from secagg.pairs import Gone, Round, Undoing
from secagg.parameters import Parameters
from secagg.records import ProtocolError, TooFewError


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
    secrets = _Secrets(answers, parameters.graph.threshold)
    gone = [
        _with_partners(parameters, secrets, advertised, client, partners)
        for client in sorted(shared.keys() - inputs.keys())
        # Else nobody added a mask that it lacks.
        if (partners := parameters.graph.neighbours[client] & inputs.keys())
    ]
    known = Round(parameters.context, parameters.round_number, parameters.masked_entries)
    total = np.zeros(parameters.masked_entries, np.uint64)
    with Undoing(gone, known, cores()) as undoing:
        for survivor, record in inputs.items():
            total += np.frombuffer(record.vector, "<u8")
            committed = advertised[survivor].commitment
            _take_off_own(total, parameters, secrets, survivor, committed)
        undoing.add_to(total)
    return total


def _take_off_own(total, parameters, secrets, survivor, committed):
    """Subtract the mask that a survivor added for itself."""
    context = parameters.context
    seed = secrets.recover(
        survivor, "seed", lambda seed: keys.commitment(seed, context, survivor) == committed
    )
    own = keys.of_self_mask(seed, context)
    masks.add(total, own, parameters.round_number, subtract=True)


def _with_partners(parameters, secrets, advertised, client, partners):
    """What it takes to undo what partners added, or subtracted, for a client that is gone."""
    public = advertised[client].masking_key
    private = secrets.recover(client, "key", lambda key: keys.public(key) == public)
    return Gone(private, [(advertised[n].masking_key, n < client) for n in sorted(partners)])


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
