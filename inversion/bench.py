"""Benchmarks of the attacks, each a ratio of times measured in the same run.

`python bench.py` prints a table, `--json` an object a line. The contenders take turns, as in
`fl.bench`. Clients, samples and noise are random: speed does not depend on what they show.

Metrics:
    speedup_vs_loop: the time of attacking one client after the other, with one jitted step a
        dispatch, over ours. The loop's model is of Flax's layers only, and its losses form the
        gradient, as one would write them.
    speedup_vs_tuned_loop: the same loop with our max-pool and losses, so that what remains is the
        gain from attacking clients together.
    client_steps_per_s: steps of the attack on one client that ours does in a second.
    scoring_s: seconds for scoring the reconstructions of all clients, once compiled.
    window_s: seconds of the adaptive attack on a window of a hundred rounds of one client, whose
        images are noise, once compiled.
    window_gb: the most memory that the process has had by then.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from assignment import Images
from attacks import ATTACKS, COSINE_TV, total_variation
from closeness import score_clients
from optimise import Problem, solve
from server_view import watch, watchful
from threat_model import PublicKnowledge, WindowView

from fl.bench import Case, Figure, plain, report, times
from fl.data.sampling import MinibatchSampler
from fl.simulation import engine, pgd
from fl.simulation.algorithms import fedavg, secadam
from fl.simulation.models import CLASSES, MODELS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

SHAPE = (28, 28, 1)
RATE = 0.1
# Attacks to measure, and how many steps of them, enough for the start to hardly matter.
CASES = {
    (Case("lenet", 100, 8), 100): ("representation", "idlg", "cosine"),
    (Case("cnn1", 4, 8), 100): ("representation",),
    (Case("cnn1", 4, 8), 20): ("cosine",),
    (Case("cnn2", 4, 8), 50): ("representation",),
}
SCORING_CASE = Case("lenet", 100, 8)
# Of the attack on a window of so many rounds, after as many.
WINDOW_CASES, WINDOW = (Case("lenet", 1, 1), Case("lenet", 1, 8)), 100
SAMPLES = 1000


class Bench:
    """One attack on one case, with its contenders: functions that attack all clients."""

    def __init__(self, case: Case, attack: str, steps: int):
        """Make the model and what was observed."""
        model = MODELS[case.model]()
        public = PublicKnowledge(model, SHAPE, case.batch, fedavg(RATE))
        self.problem = ATTACKS[attack].problem(public)._replace(steps=steps)
        public = public._replace(model=plain(model))
        loss = (
            TEXTBOOK[attack](public.model)
            if attack in TEXTBOOK
            else ATTACKS[attack].problem(public).loss
        )
        self.plain_problem = self.problem._replace(loss=loss)
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

    def loop(self, tuned: bool) -> Callable:
        """One client after the other."""
        problem = self.problem if tuned else self.plain_problem
        step = jitted_step(problem)
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


def textbook_idlg(model: nn.Module) -> Callable:
    """iDLG's loss by its formula."""
    gradient_at = textbook_gradient(model)

    def loss(images, observation, params, labels):
        gradient = gradient_at(images, params, labels)
        differences = jax.tree.map(lambda g, o: jnp.sum((g - o / RATE) ** 2), gradient, observation)
        return sum(jax.tree.leaves(differences))

    return loss


def textbook_cosine(model: nn.Module) -> Callable:
    """Geiping et al.'s loss by its formula."""
    gradient_at = textbook_gradient(model)

    def loss(images, observation, params, labels):
        gradient = gradient_at(images, params, labels)
        norms = optax.tree.norm(gradient) * optax.tree.norm(observation)
        distance = 1 - optax.tree.vdot(gradient, observation) / norms
        return distance + COSINE_TV * total_variation(images, jnp.mean)

    return loss


def textbook_gradient(model: nn.Module) -> Callable:
    """(images, params, labels) -> gradient of the mean loss with respect to params."""
    losses = sample_losses(model)
    return lambda images, params, labels: jax.grad(lambda p: losses(p, images, labels).mean())(
        params
    )


# Losses that form the gradient. That of any other attack is plain already.
TEXTBOOK = {"idlg": textbook_idlg, "cosine": textbook_cosine}


def measure(case: Case, attack: str, steps: int) -> Iterator[Figure]:
    """Measure an attack against the loops."""
    bench = Bench(case, attack, steps)
    contenders = {"ours": bench.ours(), "loop": bench.loop(False), "tuned_loop": bench.loop(True)}
    taken = times({name: (run, steps) for name, run in contenders.items()})
    for loop in ("loop", "tuned_loop"):
        yield Figure(str(case), attack, f"speedup_vs_{loop}", taken[loop] / taken["ours"])
    yield Figure(str(case), attack, "client_steps_per_s", case.clients / taken["ours"])


def scoring(case: Case) -> Figure:
    """Measure how long the scores of all clients take."""
    rng = np.random.default_rng(0)
    found, truth = rng.uniform(size=(2, case.clients, case.batch, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (case.clients, case.batch))
    present = np.ones(labels.shape, bool)
    pair = Images(found, labels, present), Images(truth, labels, present)
    taken = times({"scoring": (lambda: score_clients(*pair), 1)})
    return Figure(str(case), "any", "scoring_s", taken["scoring"])


def window(case: Case) -> Iterator[Figure]:
    """Measure the adaptive attack on the window of a client that trains on noise."""
    view = watched(case)
    attack = ATTACKS["adaptive"].problem(view.public)
    for _ in range(2):  # the first time it compiles
        began = time.perf_counter()
        jax.block_until_ready(attack.reconstruct(view, jax.random.key(0)))
        taken = time.perf_counter() - began
    yield Figure(str(case), "adaptive", "window_s", taken)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # on Linux, in kilobytes
    yield Figure(str(case), "adaptive", "window_gb", most / 1e9)


def watched(case: Case) -> WindowView:
    """What the server sees of a client's rounds of SecAdam on noise, half of which is black."""
    model, algorithm, rng = MODELS[case.model](), secadam(), np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, *SHAPE)) * rng.integers(0, 2, (SAMPLES, *SHAPE))
    labels = jnp.asarray(rng.integers(0, CLASSES, SAMPLES), jnp.int32)
    samples = Samples(jnp.asarray(images, jnp.uint8), labels, jnp.float32(255))
    params = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    server = watchful(algorithm, (0,))
    work = Work(algorithm, sample_losses(model), pgd.none(), aggregator=server)
    federation = engine.start(work, params, samples, case.clients, 1, keep_clients=True)
    sampler = MinibatchSampler([np.arange(SAMPLES)] * case.clients, case.batch, [0] * case.clients)
    state, _ = federation.run(federation.state, sampler.draw(WINDOW, 1))
    rounds = (sampler.draw(1, 1) for _ in range(WINDOW))
    seen = watch(federation._replace(state=state), WINDOW + 1, rounds)
    own = jax.tree.map(lambda leaf: leaf[0], seen.clients)
    public = PublicKnowledge(model, SHAPE, case.batch, algorithm)
    return WindowView(own, seen.params, seen.first, 1, public)


def main() -> None:
    """Measure, and print what was measured as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(map(str, {*(case for case, _ in CASES), *WINDOW_CASES}))
    parser.add_argument("--case", nargs="+", choices=names, default=names)
    parser.add_argument("--json", action="store_true", help="print an object a line")
    options = parser.parse_args()
    for (case, steps), attacks in CASES.items():
        for attack in attacks if str(case) in options.case else ():
            for figure in measure(case, attack, steps):
                report(figure, options.json)
    if str(SCORING_CASE) in options.case:
        report(scoring(SCORING_CASE), options.json)
    for case in WINDOW_CASES:
        for figure in window(case) if str(case) in options.case else ():
            report(figure, options.json)


if __name__ == "__main__":
    main()
