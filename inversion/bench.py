"""Benchmarks of the attacks, each a ratio of times measured in the same run.

`python bench.py` prints a table, `--json` an object a line. The contenders take turns, as in
`fl.bench`. Clients, samples and noise are random: speed does not depend on what they show.

Metrics:
    speedup_vs_loop: the time of attacking one client after the other, with one jitted step a
        dispatch, over ours. The loop's loss is ours too; see `speedup_vs_gradient` for that part.
    speedup_vs_gradient: the same loop, but with losses that form the gradient of dense models.
    client_steps_per_s: steps of the attack on one client that ours does in a second.
"""

import argparse
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
from attacks import ATTACKS
from observed import PublicFacts
from optimise import Problem, solve

from fl.bench import Case, Figure, report, times
from fl.models import CLASSES, MODELS

SHAPE = (28, 28, 1)
# Attacks to measure, and how many steps of them. Speed is the same from the first step on.
CASES = {
    (Case("lenet", 100, 8), 100): ("representation", "idlg", "cosine"),
    (Case("cnn1", 8, 8), 5): ("representation", "cosine"),
    (Case("cnn2", 8, 8), 5): ("representation",),
}


class Bench:
    """One attack on one case, with its contenders: functions that attack all clients."""

    def __init__(self, case: Case, attack: str, steps: int):
        """Make the model and what was observed."""
        model = MODELS[case.model]()
        facts = PublicFacts(model, SHAPE, case.batch, "fedavg", client_rate=0.1)
        self.problem = ATTACKS[attack](facts)._replace(steps=steps)
        self.params = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
        self.observations = jax.tree.map(
            lambda leaf: jax.random.normal(jax.random.key(1), (case.clients, *leaf.shape)),
            self.params,
        )
        self.labels = jax.random.randint(jax.random.key(2), (case.clients, case.batch), 0, CLASSES)
        self.keys = jax.random.split(jax.random.key(3), (case.clients, 1))

    def ours(self) -> Callable:
        """All clients by `solve`."""
        return lambda: (
            solve(self.problem, self.observations, self.params, self.labels, self.keys).images
        )

    def loop(self) -> Callable:
        """One client after the other."""
        problem, step = self.problem, jitted_step(self.problem)
        clients = [
            (jax.tree.map(lambda leaf, i=i: leaf[i], self.observations), self.labels[i], key)
            for i, key in enumerate(self.keys[:, 0])
        ]

        def run():
            found = []
            for observation, labels, key in clients:
                images = problem.init(key, observation, self.params, labels)
                state = problem.optimizer.init(images)
                for _ in range(problem.steps):
                    images, state = step(images, state, observation, self.params, labels)
                found.append(jnp.clip(images, 0, 1))
            return found

        return run


def jitted_step(problem: Problem) -> Callable:
    """Compile a step on one client, as one would write it for one client."""

    @jax.jit
    def step(images, state, observation, params, labels):
        images = jnp.clip(images, 0, 1)
        gradient = jax.grad(problem.loss)(images, observation, params, labels)
        update, state = problem.optimizer.update(gradient, state, images)
        return optax.apply_updates(images, update), state

    return step


def measure(case: Case, attack: str, steps: int) -> Iterator[Figure]:
    """Measure an attack against the loop."""
    bench = Bench(case, attack, steps)
    taken = times({"ours": (bench.ours(), steps), "loop": (bench.loop(), steps)})
    yield Figure(str(case), attack, "speedup_vs_loop", taken["loop"] / taken["ours"])
    yield Figure(str(case), attack, "client_steps_per_s", case.clients / taken["ours"])


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [str(case) for case, _ in CASES]
    parser.add_argument("--case", nargs="+", choices=names, default=names)
    parser.add_argument("--json", action="store_true", help="print an object a line")
    options = parser.parse_args()
    for (case, steps), attacks in CASES.items():
        for attack in attacks if str(case) in options.case else ():
            for figure in measure(case, attack, steps):
                report(figure, options.json)


if __name__ == "__main__":
    main()
