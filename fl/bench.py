"""Benchmarks of the engine, each a ratio of times measured in the same run.

`python -m fl.bench` prints a table, `--json` an object a line. The contenders take turns, several
times over, so that a machine that slows down slows all of them; a ratio is that of the medians.
The data are random images of Fashion-MNIST's shape: speed does not depend on what they show.

Metrics:
    speedup_vs_loop: a plain Python loop's time over the engine's, for a round. The loop dispatches
        one jitted hardening call and one jitted step for each client, averages the messages leaf by
        leaf, and steps the server in one more jitted call. Its models are of Flax's layers only.
    speedup_vs_tuned_loop: the same loop, with our faster max-pool and with averaging jitted too, so
        that what remains is the engine's own part.
    cost_of_federation: a round's time over that of one centralised PGD training step on the same
        samples as one batch. 1 means that federating costs nothing.
    speedup_vs_mapping_vmap (or _loop): the mapping that is the default here against the other.
    speedup_of_pooling: the mean client that stands for all (`fl.simulation.pooling`) against
        clients that keep a state each.
    rounds_per_s: of the engine.
    start_cold_s, start_warm_s: seconds from starting Python to the end of the first round, the
        first time and with compiled code kept on disk.
    peak_memory_gb: the most memory that such a process held, in 10^9 bytes.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fl.data.sampling import MinibatchSampler
from fl.simulation import algorithms, dispatch, engine, models, pgd
from fl.simulation.mapping import ON_ONE_DEVICE, default_mapping
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

SHAPE, SAMPLES = (28, 28, 1), 60_000
REPEATS = 5
# A contender's turn lasts about this long.
TURN_S = 1.0
PGD_STEP = 1e-3


class Case(NamedTuple):
    """A federation to measure: model, clients, samples in a minibatch."""

    model: str
    clients: int
    batch: int

    def __str__(self):
        return f"{self.model}-{self.clients}x{self.batch}"


class Figure(NamedTuple):
    """One measurement."""

    case: str
    algorithm: str
    metric: str
    value: float


# What is measured by default: the three sizes that the speed targets name, and cases where a
# mapping might lose to the loop.
SPEED_CASES = {
    Case("lenet", 10, 32): ("secadam", "fedavg", "adam"),
    Case("lenet", 100, 8): ("secadam", "fedavg"),
    Case("softmax", 10, 32): ("secadam",),
    Case("cnn1", 10, 32): ("secadam", "fedavg", "adam"),
    Case("cnn1", 3, 8): ("secadam",),
    Case("cnn2", 10, 32): ("secadam",),
}
MAPPING_CASES = {Case("lenet", 10, 32): ("secadam", "adam"), Case("cnn1", 3, 8): ("secadam",)}
POOLING_CASES = {
    Case("lenet", 10, 32): ("secadam", "fedavg"),
    Case("lenet", 100, 8): ("secadam", "fedavg"),
}
START_CASES = {Case("lenet", 10, 32): ("secadam",), Case("lenet", 100, 8): ("secadam", "adam")}


class Bench:
    """One case under one algorithm, with its contenders: functions that run one round."""

    def __init__(self, case: Case, algorithm: str):
        """Make the data, the model and the minibatches of some rounds."""
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (SAMPLES, *SHAPE), dtype=np.uint8)
        self.labels = rng.integers(0, models.CLASSES, SAMPLES, dtype=np.int32)
        self.samples = Samples(jnp.asarray(self.images), jnp.asarray(self.labels), jnp.float32(255))
        self.algorithm = algorithms.build(algorithm)
        model = models.MODELS[case.model]()
        self.work, self.plain_work = (self._work(each) for each in (model, plain(model)))
        self.params = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
        parts = np.array_split(np.arange(SAMPLES), case.clients)
        sampler = MinibatchSampler(parts, case.batch, range(case.clients))
        self.weights = sampler.weights
        self.clients = case.clients
        self.schedule = sampler.draw(dispatch.SCANNED, local_steps=1)
        self.indices = self.schedule.indices

    def _work(self, model):
        losses = sample_losses(model)
        return Work(self.algorithm, losses, pgd.pgd(losses, PGD_STEP))

    def engine(
        self, mapping: str | None = None, keep_clients: bool = False
    ) -> tuple[Callable, int]:
        """Our rounds -> (function that runs some, how many)."""
        federation = engine.start(
            self.work, self.params, self.samples, self.clients, 1, mapping, keep_clients
        )
        state, rounds = federation.state, federation.chunk
        clients, indices = (each[:rounds] for each in self.schedule[:2])
        schedule = self.schedule._replace(clients=clients, indices=indices)

        def run():
            nonlocal state
            state, losses = federation.run(state, schedule)
            return losses

        return run, rounds

    def loop(self, tuned: bool) -> tuple[Callable, int]:
        """A plain Python loop over clients -> (function that runs a round, 1)."""
        algorithm, images = self.algorithm, self.images.astype(np.float32) / 255
        count, params = self.clients, self.params
        states = [algorithm.init_client(params) for _ in range(count)]
        server = algorithm.init_server(params)
        work = self.work if tuned else self.plain_work
        harden = jax.jit(work.harden)

        @jax.jit
        def step(w, state, x, y, weights):
            _, gradient = work.gradient(w.params, x, y, weights)
            local, state = algorithm.local_step(w, w.params, state, gradient)
            return algorithm.message(w, local, state)

        def average(messages):
            return jax.tree.map(lambda *sent: sum(sent) / count, *messages)

        average = jax.jit(average) if tuned else average

        @jax.jit
        def serve(params, server, mean):
            step, server = algorithm.server_step(params, server, mean, 1.0)
            return optax.apply_updates(params, step), server

        def run():
            nonlocal params, server
            messages, received = [], algorithm.broadcast(params, server)
            for client in range(count):
                chosen = self.indices[0, client, 0]
                x, y = images[chosen], self.labels[chosen]
                hardened = harden(params, x, y)
                message, states[client] = step(
                    received, states[client], hardened, y, self.weights[client]
                )
                messages.append(message)
            params, server = serve(params, server, average(messages))
            return params

        return run, 1

    def centralised(self) -> tuple[Callable, int]:
        """A PGD training step on all clients' samples as one batch -> (function, 1)."""
        params, state = self.params, self.algorithm.init_client(self.params)
        chosen = jnp.asarray(self.indices[0, :, 0].ravel())
        weights = jnp.asarray(self.weights.ravel() / len(self.weights))

        @jax.jit
        def step(params, state, samples, chosen, weights):
            minibatch = (*samples.take(chosen), weights, jax.random.key(0))
            received = algorithms.Broadcast(params)
            params, state, _ = self.work.local_step(received, params, state, *minibatch)
            return params, state

        def run():
            nonlocal params, state
            params, state = step(params, state, self.samples, chosen, weights)
            return params

        return run, 1


def plain(model: models.Classifier) -> models.Classifier:
    """The same model of Flax's own layers only, as one would write it first."""
    return model.clone(pool=models.flax_max_pool) if hasattr(model, "pool") else model


def times(contenders: dict[str, tuple[Callable, int]]) -> dict[str, float]:
    """Let contenders take turns -> median seconds of a round for each."""
    calls = {}
    for name, (run, _) in contenders.items():
        jax.block_until_ready(run())  # compiles
        began = time.perf_counter()
        jax.block_until_ready(run())
        calls[name] = max(1, round(TURN_S / (time.perf_counter() - began)))
    seconds = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, (run, rounds) in contenders.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                last = run()
            jax.block_until_ready(last)
            seconds[name].append((time.perf_counter() - began) / calls[name] / rounds)
    return {name: median(values) for name, values in seconds.items()}


def speed(case: Case, algorithm: str) -> Iterator[Figure]:
    """Measure a case against the plain loop and the centralised step."""
    bench = Bench(case, algorithm)
    taken = times(
        {
            "engine": bench.engine(),
            "loop": bench.loop(tuned=False),
            "tuned_loop": bench.loop(tuned=True),
            "centralised": bench.centralised(),
        }
    )
    for loop in ("loop", "tuned_loop"):
        yield Figure(str(case), algorithm, f"speedup_vs_{loop}", taken[loop] / taken["engine"])
    yield Figure(str(case), algorithm, "cost_of_federation", taken["engine"] / taken["centralised"])
    yield Figure(str(case), algorithm, "rounds_per_s", 1 / taken["engine"])


def mappings(case: Case, algorithm: str) -> Iterator[Figure]:
    """Measure the default mapping against the others."""
    bench = Bench(case, algorithm)
    taken = times({name: bench.engine(name) for name in ON_ONE_DEVICE})
    default = default_mapping()
    for name in taken.keys() - {default}:
        yield Figure(
            str(case), algorithm, f"speedup_vs_mapping_{name}", taken[name] / taken[default]
        )


def pooled(case: Case, algorithm: str) -> Iterator[Figure]:
    """Measure the mean client against clients that keep a state each."""
    bench = Bench(case, algorithm)
    taken = times({"pooled": bench.engine(), "kept": bench.engine(keep_clients=True)})
    yield Figure(str(case), algorithm, "speedup_of_pooling", taken["kept"] / taken["pooled"])


def start(case: Case, algorithm: str) -> Iterator[Figure]:
    """Measure what a process of its own takes to get through its first round, twice."""
    with tempfile.TemporaryDirectory() as kept:
        for metric in ("start_cold_s", "start_warm_s"):
            began = time.time()
            output = subprocess.run(
                [sys.executable, "-m", "fl.bench", "--first-rounds", str(case), algorithm],
                env=os.environ | {"JAX_COMPILATION_CACHE_DIR": kept},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            seen = json.loads(output)
            yield Figure(str(case), algorithm, metric, seen["first_round_at"] - began)
    yield Figure(str(case), algorithm, "peak_memory_gb", seen["peak_memory"] / 1e9)


def first_rounds(case: Case, algorithm: str) -> None:
    """Run some rounds and print, for `start`, when the first one was done and the peak memory."""
    engine.keep_compiled_code()
    run, rounds = Bench(case, algorithm).engine()
    jax.block_until_ready(run())
    first_round_at = time.time()
    for _ in range(max(1, 20 // rounds)):
        losses = run()
    jax.block_until_ready(losses)
    print(json.dumps({"first_round_at": first_round_at, "peak_memory": peak_memory()}))


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; there, getrusage would also count the process that started this
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = {str(case) for case in (*SPEED_CASES, *MAPPING_CASES, *POOLING_CASES, *START_CASES)}
    parser.add_argument("--case", nargs="+", choices=sorted(every), default=sorted(every))
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument(
        "--first-rounds", nargs=2, metavar=("CASE", "ALGORITHM"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.first_rounds:
        name, algorithm = options.first_rounds
        first_rounds({str(case): case for case in START_CASES}[name], algorithm)
        return
    measures = {
        speed: SPEED_CASES,
        mappings: MAPPING_CASES,
        pooled: POOLING_CASES,
        start: START_CASES,
    }
    for measure, cases in measures.items():
        for case, names in cases.items():
            for name in names if str(case) in options.case else ():
                for figure in measure(case, name):
                    report(figure, options.json)


def report(figure: Figure, as_json: bool) -> None:
    """Print a figure."""
    figure = figure._replace(value=round(figure.value, 3))
    if as_json:
        print(json.dumps(figure._asdict()), flush=True)
    else:
        print("{:<14} {:<10} {:<22} {:>10}".format(*figure), flush=True)


if __name__ == "__main__":
    main()
