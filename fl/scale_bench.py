"""What a run takes as its clients grow in number, each measurement in a process of its own.

`python -m fl.scale_bench` prints an object a line, `--only TABLE ...` those of some tables:

    registered: rounds a second and memory with more and more clients, of which --cohort are in a
        round and the others rest on the host.
    everybody: the same with all of them in every round.
    sharding: a round's time on several devices over that on one, on the same cores, and the time
        that processors spend on it, which other work on the machine changes less; processes take
        turns.
    largest: the largest number of clients that the device holds, the last of --clients doubled
        until they do not fit.

A round includes drawing its minibatches; its time is a mean over a turn, the fastest of five. The
data are random images of Fashion-MNIST's shape, 100 at each client, batches of 8. Memory is the
most that the process held, and, where the device says so, the most that was in use there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fl.bench import PGD_STEP, SAMPLES, SHAPE, peak_memory
from fl.data.sampling import Cohort, MinibatchSampler
from fl.simulation import algorithms, engine, models, pgd
from fl.simulation.mapping import MAPPINGS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

HELD, BATCH = 100, 8
# Turns of the contenders whose times are compared.
TURNS = 5


class Case(NamedTuple):
    """One measurement: a federation, and what it is to run on.

    `chunk` is the number of rounds that are dispatched at once, by default the engine's.
    """

    model: str
    algorithm: str
    clients: int
    cohort: int | None = None
    mapping: str | None = None
    devices: int = 1
    seconds: float = 10.0
    chunk: int | None = None


def measure(case: Case) -> dict:
    """Run rounds for some seconds -> figures, in this process."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, models.CLASSES, SAMPLES, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    model = models.MODELS[case.model]()
    losses = sample_losses(model)
    work = Work(algorithms.build(case.algorithm), losses, pgd.pgd(losses, PGD_STEP))
    params = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    everything = np.tile(np.arange(SAMPLES), 2)
    starts = np.arange(case.clients) * HELD % SAMPLES
    parts = [everything[start : start + HELD] for start in starts]
    cohort = case.cohort and Cohort(case.cohort, np.random.default_rng(0))
    sampler = MinibatchSampler(parts, BATCH, range(case.clients), cohort)
    rest = cohort is not None
    settings = {"mapping": case.mapping, "keep_clients": True, "rest": rest}
    federation = engine.start(work, params, samples, case.clients, 1, **settings)
    state, chunk = federation.state, case.chunk or federation.chunk

    def some_rounds(seconds):
        nonlocal state
        rounds, began, spent = 0, time.perf_counter(), time.process_time()
        while rounds == 0 or time.perf_counter() - began < seconds:
            state, last = federation.run(state, sampler.draw(chunk, 1))
            jax.block_until_ready(last)
            rounds += chunk
        return (time.perf_counter() - began) / rounds, (time.process_time() - spent) / rounds

    some_rounds(0)  # compiles
    turns = [some_rounds(case.seconds / TURNS) for _ in range(TURNS)]
    fastest, cheapest = map(min, zip(*turns, strict=True))
    on_device = jax.devices()[0].memory_stats() or {}
    return {
        "round_s": fastest,
        "processor_s": cheapest,
        "peak_memory_gb": peak_memory() / 1e9,
        "device_memory_gb": on_device.get("peak_bytes_in_use", np.nan) / 1e9,
        "device": jax.devices()[0].device_kind,
    }


def in_a_process(case: Case) -> dict | None:
    """As `measure`, in a process of its own; None where it fails, as for want of memory."""
    flags = f"--xla_force_host_platform_device_count={case.devices}"
    settings = {"XLA_FLAGS": flags} if case.devices > 1 else {}
    command = [sys.executable, "-m", "fl.scale_bench", "--one", json.dumps(case)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def report(table: str, case: Case, figures: dict | None) -> None:
    """Print a measurement."""
    figures = figures or {"failed": True}
    rounded = {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in figures.items()
    }
    print(json.dumps({"table": table, **case._asdict(), **rounded}), flush=True)


def registered(case: Case, sizes: list[int]) -> Iterator[tuple[Case, dict | None]]:
    """Clients that rest, but for a cohort."""
    for size in sizes:
        one = case._replace(clients=size)
        yield one, in_a_process(one)


def everybody(case: Case, sizes: list[int]) -> Iterator[tuple[Case, dict | None]]:
    """Clients that are all in every round."""
    yield from registered(case._replace(cohort=None), sizes)


def sharding(case: Case, sizes: list[int]) -> Iterator[tuple[Case, dict | None]]:
    """Several devices against one, both on the cores that this process may use."""
    one = case._replace(clients=sizes[0], cohort=None)
    contenders = [one, *(one._replace(devices=devices, mapping="sharded") for devices in (2, 4))]
    taken = {each: [] for each in contenders}
    for _ in range(TURNS):
        for each in contenders:
            taken[each].append(in_a_process(each))
    for each in contenders:
        figures = {}
        for name in ("round_s", "processor_s"):
            own, base = (median(turn[name] for turn in taken[which]) for which in (each, one))
            figures |= {name: own, f"{name}_over_one_device": own / base}
        yield each, figures


def largest(case: Case, sizes: list[int]) -> Iterator[tuple[Case, dict | None]]:
    """Twice as many clients in every round, until they do not fit."""
    for doublings in count():
        one = case._replace(clients=sizes[-1] * 2**doublings, cohort=None)
        figures = in_a_process(one)
        yield one, figures
        if figures is None:
            return


TABLES = {table.__name__: table for table in (registered, everybody, sharding, largest)}


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--model", nargs="+", choices=list(models.MODELS), default=["softmax"])
    parser.add_argument("--algorithm", choices=list(algorithms.ALGORITHMS), default="secadam")
    parser.add_argument("--clients", nargs="+", type=int, default=[10, 100, 1_000, 10_000])
    parser.add_argument("--cohort", type=int, default=10)
    parser.add_argument("--mapping", choices=MAPPINGS)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--chunk", type=int, help="rounds at once (default: the engine's)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Case(*json.loads(options.one)))))
        return
    for name in options.only:
        for model in options.model:
            case = Case(model, options.algorithm, 0, options.cohort, options.mapping)
            case = case._replace(seconds=options.seconds, chunk=options.chunk)
            for measured, figures in TABLES[name](case, options.clients):
                report(name, measured, figures)


if __name__ == "__main__":
    main()
