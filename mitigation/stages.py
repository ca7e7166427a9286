"""The rounds from an attack on, stage by stage."""

import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import poisoning
from attacks import ATTACKS
from federation import Clean, never_harden, rounds_of
from runs import Run, describe

from fl.data import sampling
from fl.experiment.startup import checkpoint_path
from fl.simulation.engine import copied
from fl.simulation.rounds import State
from fl.simulation.run import Evaluation, Plan
from fl.simulation.run import train as run_rounds


class Attacked(NamedTuple):
    """What came of an attack.

    Attributes:
        state: of the federation after the last round.
        history: evaluations, those before the attack too.
        diverged: whether the run did.
        wall_s: seconds from the attack on.
        checkpoints: to be removed once the results are safe.
    """

    state: State
    history: list[Evaluation]
    diverged: bool
    wall_s: float
    checkpoints: list[Path]


def attack(run: Run, clean: Clean, results_path: Path, evaluate_every: int) -> Attacked:
    """Attack a federation, and run its remaining rounds.

    Args:
        run: with the same rounds before the attack as that of `clean`.
        clean: not given up, so that it can be attacked in another way too.
        results_path: the results file, beside which checkpoints lie.
        evaluate_every: rounds between evaluations, at least 1.
    """
    stages = _Stages(run, clean, results_path, evaluate_every)
    for stage in ATTACKS[run.attack].stages:
        left = run.rounds - run.start_round - stages.done
        count = left if stage.rounds is None else min(stage.rounds, left)
        if stage.until is None:
            stages.go(stage.attacked, count)
        else:
            stages.watch(stage.attacked, count, until=stage.until)
    return stages.outcome()


class _Stages:
    """Rounds one stage after the other; each stage keeps checkpoints of its own."""

    def __init__(self, run, clean, results_path, evaluate_every):
        self._run, self._clean = run, clean
        self._results_path, self._every = results_path, evaluate_every
        self._sampler = copy.deepcopy(clean.sampler)
        self._rngs = _generators(run)
        self._state = copied(clean.outcome.state)
        self._history = list(clean.outcome.history)
        self._diverged = clean.outcome.diverged
        self._checkpoints = []
        self._wall_s = 0.0
        self.done = 0

    def _minibatches(self, attacked):
        """Draw from the same generators in attacked rounds and honest ones."""
        run, entry = self._run, ATTACKS[self._run.attack]
        if not attacked:
            return poisoning.AdversarialSampler(self._sampler, unhardened=never_harden(run))
        who = poisoning.last_clients(run.clients, run.adversaries)
        batches = np.full(len(who), run.batch_size)
        if run.departures.small_adversary:
            batches = np.count_nonzero(self._sampler.weights[who], axis=1)
        sizes = [entry.sizes(run.dataset, int(batch)) for batch in batches]
        labels, shared = self._clean.dataset.train_labels, run.departures.shared_poison
        poison = poisoning.poison(labels, run.clients, entry.variant, sizes, own_draws=shared)
        return poisoning.AdversarialSampler(self._sampler, poison, self._rngs)

    def _federation(self, attacked):
        entry, work = ATTACKS[self._run.attack], self._clean.work
        if attacked and entry.deviate is not None:
            work = work._replace(deviate=entry.deviate(self._run.clients))
        return self._clean.start(work)._replace(state=self._state)

    def go(self, attacked, rounds):
        """Run some rounds, evaluating where other runs do too."""
        ahead = min(-(self._run.start_round + self.done) % self._every, rounds)
        self.watch(attacked, ahead, self._every)
        self.watch(attacked, rounds - ahead, self._every)

    def watch(self, attacked, rounds, every=1, until=lambda evaluation: False):
        """Run some rounds until a condition holds, evaluating every few and after the last."""
        if rounds < 1 or self._diverged or any(map(until, self._history[-1:])):
            return
        run = self._run
        plan = Plan(rounds, run.local_steps, every)
        saved = checkpoint_path(self._results_path, rounds_of(run), plan, self.done)
        outcome = run_rounds(
            self._federation(attacked),
            self._minibatches(attacked),
            self._clean.scores,
            plan,
            until,
            saved,
            describe(run),
        )
        before = run.start_round + self.done
        self._history += [each._replace(round=before + each.round) for each in outcome.history]
        self._state, self._diverged = outcome.state, outcome.diverged
        self._wall_s += outcome.wall_s
        self._checkpoints.append(saved)
        self.done += outcome.stopped or rounds

    def outcome(self):
        """Sum up."""
        return Attacked(self._state, self._history, self._diverged, self._wall_s, self._checkpoints)


def _generators(run):
    """What each adversary draws its backdoored samples with: one generator for all of them."""
    seed = sampling.run_seed(run.seed)
    if run.departures.shared_poison:
        return [np.random.default_rng(seed) for _ in range(run.adversaries or 0)]
    return [np.random.default_rng(seed)] * (run.adversaries or 0)
