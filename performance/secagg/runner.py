"""A round from its first message to its last, with clients that vanish on the way."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.client import Client
from secagg.messages import Confirmations, Delivery, Roster, SealedSum, Survivors
from secagg.parameters import Parameters
from secagg.records import TooFewError
from secagg.server import Server

# A client that drops out after a stage sends its message of that stage, and none of a later one.
STAGES = ("advertise", "share", "mask", "confirm", "unmask")
# These follow where vectors are sealed.
OPENING = ("open", "answer")


class Result(NamedTuple):
    """What came of a round.

    Attributes:
        total: uint64 [entry], the sum of the survivors' vectors modulo 2^64, sealed if they are.
        survivors: whose vectors are in it.
        sent: client -> bytes that it sent.
        received: client -> bytes that it was sent.
        client_s: stage -> seconds of all clients together.
        server_s: stage -> seconds of the server.
        answer: what the committee made of a sealed sum; empty where none is sealed.
    """

    total: np.ndarray
    survivors: tuple[int, ...]
    sent: dict[int, int]
    received: dict[int, int]
    client_s: dict[str, float]
    server_s: dict[str, float]
    answer: bytes = b""


def play(
    parameters: Parameters,
    signing_keys: Mapping[int, Ed25519PrivateKey],
    vector: Callable[[int, bytes | None], np.ndarray],
    dropping: Mapping[int, str] | None = None,
    finish: Callable[[np.ndarray, int], bytes] | None = None,
) -> Result:
    """Play a round.

    Args:
        parameters: of the round.
        signing_keys: the private parts of the registered keys, by client.
        vector: (client, common secret or None) -> uint64 [entries], what it contributes.
        dropping: client -> the stage, of `STAGES` and `OPENING`, after which it is never heard of
            again, or "" for one that was never there. None or an absent client stays to the end.
        finish: what the committee makes of a sealed sum, see `Client.open`.

    Raises:
        TooFewError: if too few are left to open the sum, which then stays unknown.
    """
    return _Round(parameters, signing_keys, vector, dropping or {}, finish).play()


class _Round:
    """The state of `play`: all messages pass through it as bytes."""

    def __init__(self, parameters, signing_keys, vector, dropping, finish):
        self._sealed, self._finish = parameters.sealed, finish
        self._server = Server(parameters)
        self._clients = {n: Client(n, key, parameters) for n, key in signing_keys.items()}
        self._vector, self._dropping = vector, dropping
        self._sent, self._received = (dict.fromkeys(self._clients, 0) for _ in range(2))
        self._seconds = {"client": defaultdict(float), "server": defaultdict(float)}

    def play(self):
        present = [n for n in self._clients if self._dropping.get(n) != ""]
        present = self._stage("advertise", present, lambda n, _: self._clients[n].advertise())
        rosters = self._serve("share", self._server.rosters)
        present = self._stage("share", present, self._share, rosters)
        deliveries = self._serve("mask", self._server.deliveries)
        present = self._stage("mask", present, self._mask, deliveries)
        survivors = self._serve("confirm", self._server.survivors)
        present = self._stage("confirm", present, self._confirm, survivors)
        confirmations = self._serve("unmask", self._server.confirmations)
        present = self._stage("unmask", present, self._unmask, confirmations)
        total = self._serve("sum", self._server.total)
        answer = self._opened(present, total) if self._sealed else b""
        seconds = (dict(self._seconds[who]) for who in ("client", "server"))
        summed = next(iter(survivors.values())).clients
        return Result(total, summed, self._sent, self._received, *seconds, answer)

    def _opened(self, present, total):
        """What the committee makes of a sealed sum."""
        sums = self._serve("open", lambda: self._server.sealed_sums(total))
        present = self._stage("open", present, self._open, sums)
        speakers = self._serve("answer", self._server.speakers)
        for number in filter(present.__contains__, speakers):
            with self._timed("client", "answer"):
                reply = self._clients[number].answer().to_bytes()
            self._sent[number] += len(reply)
            return self._serve("answer", partial(self._server.answer, number, reply))
        raise TooFewError("nobody is left of those who opened the sum: the round is abandoned")

    def _share(self, number, data):
        return self._clients[number].share(Roster.from_bytes(data))

    def _mask(self, number, data):
        client = self._clients[number]
        common = client.receive(Delivery.from_bytes(data))
        return client.mask(self._vector(number, common))

    def _confirm(self, number, data):
        return self._clients[number].confirm(Survivors.from_bytes(data))

    def _unmask(self, number, data):
        return self._clients[number].unmask(Confirmations.from_bytes(data))

    def _open(self, number, data):
        return self._clients[number].open(SealedSum.from_bytes(data), self._finish)

    def _stage(self, stage, present: Iterable[int], answer, broadcast=None):
        """Let clients answer what they are sent -> those that are still there afterwards."""
        left = []
        for number in present:
            if broadcast and number not in broadcast:
                continue  # the server counts it as gone
            data = broadcast[number].to_bytes() if broadcast else b""
            self._received[number] += len(data)
            with self._timed("client", stage):
                try:
                    reply = answer(number, data).to_bytes()
                except TooFewError:
                    continue  # a client that sees too few others takes no further part
            self._sent[number] += len(reply)
            with self._timed("server", stage):
                self._server.receive(number, reply)
            if self._dropping.get(number) != stage:
                left.append(number)
        return left

    def _serve(self, stage, step):
        with self._timed("server", stage):
            return step()

    @contextmanager
    def _timed(self, who, stage):
        began = time.perf_counter()
        yield
        self._seconds[who][stage] += time.perf_counter() - began
