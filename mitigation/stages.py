"""The rounds from an attack on: attacked, recovering, and the rest."""

import copy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import backdoor
import jax
import jax.numpy as jnp
import numpy as np
from federation import Clean, describe
from recovery import recovered
from settings import Options, training

from fl.data import sampling
from fl.experiment.program import checkpoint_path
from fl.simulation import run
from fl.simulation.rounds import State


class Attacked(NamedTuple):
    """What came of an attack.

    Attributes:
        state: of the federation after the last round.
        history: evaluations, those before the attack too; every round until recovery after a
            one-shot attack.
        diverged: whether the run did.
        wall_s: seconds from the attack on.
        checkpoints: to be removed once the results are safe.
    """

    state: State
    history: list[run.Evaluation]
    diverged: bool
    wall_s: float
    checkpoints: list[Path]


def attack(options: Options, cell: dict, clean: Clean) -> Attacked:
    """Attack a federation, and run its remaining rounds.

    Args:
        options: the command line.
        cell: one of `settings.grid`, with the same rounds before the attack as that of `clean`.
        clean: not given up, so that it can be attacked in another way too.
    """
    stages = _Stages(options, cell, clean)
    left = cell["rounds"] - cell["start_round"]
    if cell["attack"] == "none":
        stages.go(backdoor.honest, left)
        return stages.outcome()
    poisoned = partial(
        getattr(backdoor, cell["attack"]),
        poison=_poison(cell, clean.dataset),
        rng=np.random.default_rng(sampling.run_seed(cell["seed"])),
    )
    stages.go(poisoned, 1)
    if cell["attack"] == "continuous":
        stages.go(poisoned, left - 1)
        return stages.outcome()
    if not stages.over(recovered):
        stages.watch(backdoor.honest, left - 1, stop=recovered)
    stages.go(backdoor.honest, left - stages.done)
    return stages.outcome()


def _poison(cell, dataset):
    clients, adversaries = cell["clients"], cell["adversaries"]
    sources = np.flatnonzero(dataset.train_labels == backdoor.SOURCE)
    clean, backdoored = 0, cell["batch_size"]
    if cell["attack"] == "continuous":
        clean, backdoored = backdoor.sizes(cell["dataset"], cell["batch_size"])
    return backdoor.Poison(
        adversaries=np.arange(clients - adversaries, clients),
        clean=clean,
        backdoored=min(backdoored, len(sources)),
        sources=sources,
        samples=len(dataset.train_labels),
    )


class _Stages:
    """Rounds one stage after the other; each stage keeps checkpoints of its own."""

    def __init__(self, options, cell, clean):
        self._options, self._cell, self._clean = options, cell, clean
        self._sampler = copy.deepcopy(clean.sampler)
        self._state = jax.tree.map(jnp.copy, clean.outcome.state)
        self._history = list(clean.outcome.history)
        self._diverged = clean.outcome.diverged
        self._checkpoints = []
        self._wall_s = 0.0
        self.done = 0

    def over(self, stop):
        """Whether the last evaluation fulfils a condition, or the run has diverged."""
        return self._diverged or stop(self._history[-1])

    def go(self, attack, rounds):
        """Run some rounds under an attack, evaluating where other runs do too."""
        done, every = self._cell["start_round"] + self.done, self._options.evaluate_every
        ahead = min(-done % every, rounds)
        self.watch(attack, ahead, every)
        self.watch(attack, rounds - ahead, every)

    def watch(self, attack, rounds, every=1, stop=lambda evaluation: False):
        """Run some rounds under an attack, evaluating every few and after the last."""
        if rounds < 1 or self._diverged:
            return
        options, cell = self._options, self._cell
        plan = run.Plan(rounds, cell["local_steps"], every)
        saved = checkpoint_path(options.results, training(options, cell), plan, self.done)
        outcome = run.train(
            self._clean.federation._replace(state=self._state),
            backdoor.Attacked(self._sampler, attack),
            self._clean.scores,
            plan,
            stop,
            saved,
            describe(cell),
        )
        before = cell["start_round"] + self.done
        self._history += [each._replace(round=before + each.round) for each in outcome.history]
        self._state, self._diverged = outcome.state, outcome.diverged
        self._wall_s += outcome.wall_s
        self._checkpoints.append(saved)
        self.done += outcome.stopped or rounds

    def outcome(self):
        """Sum up."""
        return Attacked(self._state, self._history, self._diverged, self._wall_s, self._checkpoints)
