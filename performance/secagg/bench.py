"""Benchmarks of whole rounds of secure aggregation: seconds and bytes.

`python -m secagg.bench`, in the folder performance, prints a line a case, with `--stages` what each
stage took beneath it, with `--json` all of it as an object; with `--pieces` the microseconds of
what the server does most often, instead. All clients and the server run one after the other in this
process, on random vectors; a client's seconds are the mean over clients, as each would take by
itself.
"""

import argparse
import itertools
import json
import time
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl.bench import peak_memory
from secagg import graph, keys, masks, runner, shamir
from secagg.parameters import Parameters


class Case(NamedTuple):
    """What is measured.

    Attributes:
        clients: n.
        entries: length of a vector.
        dropping: share of the clients that vanish after they have shared their secrets, which
            costs the server most.
        neighbours: `graph.ALL`, or `graph.AUTO` for SecAgg+.
        sealed: whether vectors are sealed and a committee opens their sum, as SecAdam's.
    """

    clients: int
    entries: int
    dropping: float = 0.0
    neighbours: str = graph.ALL
    sealed: bool = False


CASES = (
    *(Case(n, 100_000, dropping) for n in (10, 100, 500) for dropping in (0.0, 0.1)),
    *(Case(n, 100_000, 0.1, graph.AUTO) for n in (100, 500)),
    *(Case(100, 1_000_000, 0.0, neighbours) for neighbours in (graph.ALL, graph.AUTO)),
    Case(1000, 10_000, 0.0, graph.AUTO),
    Case(1000, 10_000, 0.1, graph.AUTO),
    Case(10, 533_220, 0.0, sealed=True),  # SecAdam with lenet
)


def measure(case: Case) -> dict:
    """Play a round, check its sum, and say what it took."""
    links = graph.build(case.clients, case.neighbours, seed=0)
    signing = {client: Ed25519PrivateKey.generate() for client in range(case.clients)}
    registered = {client: key.public_key() for client, key in signing.items()}
    params = Parameters(0, registered, links, case.entries, case.sealed, case.sealed)
    # Not the order in which they sit in the circle: that would empty a part of it.
    gone = np.random.default_rng(1).permutation(case.clients)[: int(case.dropping * case.clients)]

    def vector(client, _):
        rng = np.random.default_rng(client)
        return rng.integers(0, 2**40 if case.sealed else 2**64, case.entries, dtype=np.uint64)

    vanishing = dict.fromkeys(gone.tolist(), "share")
    result = runner.play(params, signing, vector, vanishing, lambda total, _: total.tobytes())
    expected = sum(vector(client, None) for client in result.survivors)
    if (result.answer or result.total.tobytes()) != expected.tobytes():
        raise AssertionError(f"wrong sum for {case}")
    client_s = {stage: spent / case.clients for stage, spent in result.client_s.items()}
    return {
        **case._asdict(),
        "degree": len(links.neighbours[0]),
        "threshold": links.threshold,
        "client_s": round(sum(client_s.values()), 3),
        "server_s": round(sum(result.server_s.values()), 3),
        "sent_kb": round(np.mean(list(result.sent.values())) / 1000, 1),
        "received_kb": round(np.mean(list(result.received.values())) / 1000, 1),
        "peak_memory_gb": round(peak_memory() / 1e9, 2),
        "client_stages_ms": _milliseconds(client_s),
        "server_stages_ms": _milliseconds(result.server_s),
    }


def pieces(entries: int = 100_000, threshold: int = 88) -> dict[str, float]:
    """Microseconds of what the server does most often, the least of many times.

    Args:
        entries: length of a vector.
        threshold: t, of the circle whose shares are put together.
    """
    private = X25519PrivateKey.generate()
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    total, starts = np.zeros(entries, np.uint64), itertools.count(1)
    key = bytes(range(masks.KEY_BYTES))

    def combine():
        """As no other circle before: what the shares are weighted by is kept."""
        start = next(starts)
        shamir.combine_numbers(dict.fromkeys(range(start, start + threshold), 1), shamir.PRIME)

    return {
        "agree on a key": _least(lambda: keys.agree(private, public, "mask", bytes(32))),
        "expand a mask and add it": _least(lambda: masks.add(total, key, 0)),
        "combine the shares of a circle": _least(combine),
    }


def _least(run, times=200):
    """Microseconds of the fastest of many runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return round(1e6 * min(found), 1)


def _milliseconds(seconds):
    return {stage: round(1000 * spent, 1) for stage, spent in seconds.items()}


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument("--stages", action="store_true", help="print milliseconds of each stage")
    parser.add_argument("--pieces", action="store_true", help="print microseconds of the pieces")
    parser.add_argument("--clients", type=int, nargs="+", help="only cases of so many clients")
    options = parser.parse_args()
    if options.pieces:
        for piece, spent in pieces().items():
            print(f"{piece:>32}: {spent:10,} microseconds")
        return
    cases = [case for case in CASES if not options.clients or case.clients in options.clients]
    for number, case in enumerate(cases):
        found = measure(case)
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        stages = {who: found.pop(f"{who}_stages_ms") for who in ("client", "server")}
        if number == 0:
            print("".join(f"{name:>15}" for name in found))
        print("".join(f"{value!s:>15}" for value in found.values()), flush=True)
        if options.stages:
            for who, spent in stages.items():
                each = ", ".join(f"{stage} {value:,}" for stage, value in spent.items())
                print(f"{who:>15}, ms: {each}", flush=True)


if __name__ == "__main__":
    main()
