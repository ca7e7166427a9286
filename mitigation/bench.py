"""Benchmarks of attacked rounds, certificates and sorting, each a ratio of times in the same run.

`python bench.py` prints a table, `--json` an object a line. The contenders take turns, as in
`fl.bench`. The data are random images of Fashion-MNIST's shape.

Metrics:
    speedup_vs_loop, speedup_vs_tuned_loop: of a clean round over the plain loops of `fl.bench`.
    cost_of_attack: the time of a poisoned round, with 30 % of the clients attacking, over that of a
        clean one.
    speedup_vs_model_loop: of letting smoothed models vote, over one model after the other: noise
        drawn by one jitted function, an evaluation of all samples by another.
    models_per_s: smoothed models a second.
    peak_memory_gb: the most memory of a process that only votes, in 10^9 bytes.
    speedup_vs_jnp_median: of `sorting.reduce_sorted` over `jnp.median`, for 100 clients' kernels of
        lenet's first layer.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import backdoor
import jax
import jax.numpy as jnp
import numpy as np
import poisoning
import smoothing
from attacks import ATTACKS
from sorting import reduce_sorted

from fl.bench import Bench, Case, Figure, peak_memory, report, times
from fl.data.sampling import MinibatchSampler
from fl.simulation import engine, pgd
from fl.simulation.models import CLASSES, MODELS

CASE = Case("lenet", 100, 32)
SHAPE = (28, 28, 1)
# A tenth of the paper's models: speed is the same from the first to the last.
MODELS_VOTING, SAMPLES, SIGMA = 100, 10_000, 0.01


class AttackBench(Bench):
    """Clean and poisoned rounds, and the plain loops."""

    def __init__(self, case: Case):
        """Make a federation whose clients keep their states, as an attack needs it."""
        super().__init__(case, "secadam")
        self.work = self.work._replace(harden=pgd.none())
        self.plain_work = self.plain_work._replace(harden=pgd.none())
        entry = ATTACKS["continuous"]
        poison = poisoning.poison(
            *(self.labels, case.clients, entry.variant),
            [entry.sizes("fashion_mnist", case.batch)] * entry.adversaries(case.clients),
        )
        parts = np.array_split(np.arange(len(self.labels)), case.clients)
        self.schedules = {
            kind: poisoning.AdversarialSampler(
                MinibatchSampler(parts, case.batch, range(case.clients)),
                poisoned,
                [np.random.default_rng(0)] * entry.adversaries(case.clients),
            ).draw(1, 1)
            for kind, poisoned in (("clean", None), ("poisoned", poison))
        }

    def rounds(self, kind: str) -> tuple[Callable, int]:
        """Rounds of a kind, clean or poisoned -> (function that runs one, 1)."""
        federation = engine.start(
            *(self.work, self.params, backdoor.with_triggers(self.samples), len(self.weights), 1),
            keep_clients=True,
        )
        state = federation.state

        def run():
            nonlocal state
            state, losses = federation.run(state, self.schedules[kind])
            return losses

        return run, 1


def attacks(case: Case) -> Iterator[Figure]:
    """Measure clean rounds against the loops, and poisoned ones against clean ones."""
    bench = AttackBench(case)
    contenders = {
        **{kind: bench.rounds(kind) for kind in ("clean", "poisoned")},
        "loop": bench.loop(tuned=False),
        "tuned_loop": bench.loop(tuned=True),
    }
    taken = times(contenders)
    for loop in ("loop", "tuned_loop"):
        yield Figure(str(case), "secadam", f"speedup_vs_{loop}", taken[loop] / taken["clean"])
    yield Figure(str(case), "secadam", "cost_of_attack", taken["poisoned"] / taken["clean"])


class VoteBench:
    """Smoothed models, with their contenders: functions that let all of them vote."""

    def __init__(self, model: str):
        """Make a model and the samples that it votes on."""
        self.logits = MODELS[model]().apply
        self.params = MODELS[model]().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
        self.images = jax.random.uniform(jax.random.key(1), (SAMPLES, *SHAPE))
        self.key = jax.random.key(2)

    def ours(self) -> np.ndarray:
        """All models by `smoothing.vote`."""
        voting = self.logits, self.params, self.images, SIGMA, MODELS_VOTING, self.key
        return smoothing.vote(*voting, label=None)

    def loop(self) -> Callable:
        """One model after the other."""
        noisy = jax.jit(smoothing.smoothed)
        predict = jax.jit(lambda params, images: self.logits(params, images).argmax(-1))

        def run():
            counts = np.zeros((SAMPLES, CLASSES), int)
            for number in range(MODELS_VOTING):
                params = noisy(self.params, SIGMA, jax.random.fold_in(self.key, number))
                counts[np.arange(SAMPLES), np.asarray(predict(params, self.images))] += 1
            return counts

        return run


def votes(model: str) -> Iterator[Figure]:
    """Measure a vote against the loop over models, and its memory."""
    bench, case = VoteBench(model), f"{model}-{SAMPLES}"
    taken = times({"ours": (bench.ours, MODELS_VOTING), "loop": (bench.loop(), MODELS_VOTING)})
    yield Figure(case, "vote", "speedup_vs_model_loop", taken["loop"] / taken["ours"])
    yield Figure(case, "vote", "models_per_s", 1 / taken["ours"])
    output = subprocess.run(
        [sys.executable, __file__, "--only-vote", model], stdout=subprocess.PIPE, check=True
    ).stdout
    yield Figure(case, "vote", "peak_memory_gb", json.loads(output) / 1e9)


def sorting(clients: int) -> Iterator[Figure]:
    """Measure the median by a sorting network against JAX's."""
    kernels = jax.random.normal(jax.random.key(0), (clients, 784, 300))
    middle = slice((clients - 1) // 2, clients // 2 + 1)
    ours = jax.jit(lambda leaf: reduce_sorted(leaf, lambda rows: rows[middle].mean(0)))
    jaxs = jax.jit(lambda leaf: jnp.median(leaf, axis=0))
    contenders = {"ours": (lambda: ours(kernels), 1), "jax": (lambda: jaxs(kernels), 1)}
    taken = times(contenders)
    ratio = taken["jax"] / taken["ours"]
    yield Figure(f"{clients} clients", "median", "speedup_vs_jnp_median", ratio)


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument("--only-vote", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_vote:
        VoteBench(options.only_vote).ours()
        print(peak_memory())
        return
    for found in (attacks(CASE), votes("lenet"), sorting(CASE.clients)):
        for figure in found:
            report(figure, options.json)


if __name__ == "__main__":
    main()
