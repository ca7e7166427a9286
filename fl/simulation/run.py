"""A run from its first round to its last: evaluation, progress, divergence."""

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fl.data.sampling import MinibatchSampler
from fl.progress import progress_bar
from fl.simulation import processes
from fl.simulation.engine import Federation
from fl.simulation.keeping import Keeper
from fl.simulation.rounds import State

PyTree = Any


class Evaluation(NamedTuple):
    """The global model after some round.

    Attributes:
        round: rounds done.
        loss: the last round's mean training loss over clients and steps, in nats.
        scores: what was asked for, such as the accuracy.
    """

    round: int
    loss: float
    scores: dict[str, float]


class Plan(NamedTuple):
    """What a run is to do.

    Attributes:
        rounds: how many at most, at least 1.
        local_steps: of each client in a round, at least 1.
        evaluate_every: rounds between evaluations, at least 1; the last round always has one.
    """

    rounds: int
    local_steps: int
    evaluate_every: int


def until_accuracy(target: float | None) -> Callable[[Evaluation], bool]:
    """Stop at a test accuracy; never, where there is no target."""
    return lambda evaluation: target is not None and evaluation.scores["accuracy"] >= target


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        state: the federation after the last round.
        history: the evaluations, in order.
        diverged: whether the loss or the parameters ceased to be finite, which ended the run.
        stopped: the round after which an evaluation ended the run; None if it went on to the last.
        start_s: seconds from the call to the end of the first compiled rounds.
        wall_s: seconds in all, interruptions not counted.
        rounds_per_s: rounds per second, compiling and evaluations not counted; None if too few.
    """

    state: State
    history: list[Evaluation]
    diverged: bool
    stopped: int | None
    start_s: float
    wall_s: float
    rounds_per_s: float | None


def train(
    federation: Federation,
    sampler: MinibatchSampler,
    scores: Mapping[str, Callable[[PyTree], float]],
    plan: Plan,
    stop: Callable[[Evaluation], bool] = lambda evaluation: False,
    saved: Path | None = None,
    label: str = "",
    copies: Mapping[int, Path] | None = None,
) -> Outcome:
    """Run a federation, with a progress bar.

    Args:
        federation: from `simulation.start`; its state is given up.
        sampler: stands where the first of these rounds is to be drawn; anything with `draw`,
            `state` and `restore` as `MinibatchSampler` has them.
        scores: name -> function of the parameters, which evaluations hold.
        plan: what to do.
        stop: whether an evaluation ends the run.
        saved: where to keep checkpoints and to look for one of a run that was interrupted; None
            for none. It stays there at the end: remove it once the outcome is safe.
        label: shown beside the progress bar.
        copies: number of rounds done -> where to keep a copy of the state then, see
            `keeping.stand`. They stay there at the end.
    """
    run = _Run(federation, sampler, scores, plan, stop, saved, copies or {})
    run.resume()
    with progress_bar(plan.rounds, label if processes.leads() else None, "round", run.done) as bar:
        while run.done < plan.rounds and not run.diverged and run.stopped is None:
            run.advance()
            bar.set_postfix(run.figures(), refresh=False)
            bar.update(run.done - bar.n)
    return run.outcome()


class _Run:
    """The state of `train`."""

    def __init__(self, federation, sampler, scores, plan, stop, saved, copies):
        self._federation, self._sampler, self._scores = federation, sampler, scores
        self._plan, self._stop = plan, stop
        self._keeper = Keeper(saved, copies)
        self._state = federation.state
        self._losses = None  # of the latest rounds, perhaps still being computed
        self._loss = None  # of the latest round known
        self.done = 0
        self.history = []
        self.diverged = False
        self.stopped = None
        self._began = time.perf_counter()
        self._before_s = 0.0  # spent by an interrupted process
        self._start_s = None
        self._timed_from = 0  # first round that counts for the speed
        self._untimed_s = 0.0  # spent on other things since then

    def resume(self):
        """Go on from the checkpoint, if there is one."""
        kept = self._keeper.look(self._state, self._sampler)
        if kept:
            self._state, notes = kept
            self.done, self._before_s = notes["done"], notes["wall_s"]
            self.history = [Evaluation(*evaluation) for evaluation in notes["history"]]
            if self.history and self._stop(self.history[-1]):
                self.stopped = self.history[-1].round
        self._copy()

    def advance(self):
        """Run up to the next evaluation, or a chunk of rounds if that is less."""
        plan, chunk = self._plan, self._federation.chunk
        goals = [(self.done // size + 1) * size for size in (chunk, plan.evaluate_every)]
        rounds = min(*goals, *self._keeper.goals(self.done), plan.rounds) - self.done
        schedule = self._sampler.draw(rounds, plan.local_steps)
        before = self._losses
        self._state, self._losses = self._federation.run(self._state, schedule)
        self.done += rounds
        if before is not None:  # look at these while the device works on the next ones
            self._look_at(before)
        if self._start_s is None:
            jax.block_until_ready(self._state)
            self._start_s = time.perf_counter() - self._began
            self._timed_from, self._untimed_s = self.done, 0.0
        self._copy()
        evaluates = self.done % plan.evaluate_every == 0 or self.done == plan.rounds
        if evaluates:
            self._evaluate()
        if self._keeper.is_due(self.done, evaluates):
            with self._untimed():
                notes = {"wall_s": self._wall_s(), "history": self.history}
                self._keeper.save(self.done, self._state, self._sampler, notes)

    def _look_at(self, losses):
        losses = np.asarray(losses)
        self.diverged = self.diverged or not np.isfinite(losses).all()
        self._loss = float(losses[-1])

    def _evaluate(self):
        with self._untimed():
            self._look_at(self._losses)
            params = processes.on_one_device(self._state.params)
            leaves = jax.tree.leaves(params)
            if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
                self.diverged = True
            if self.diverged:
                return
            scores = processes.told(
                lambda: {name: score(params) for name, score in self._scores.items()}
            )
            self.history.append(Evaluation(self.done, self._loss, scores))
            if self._stop(self.history[-1]):
                self.stopped = self.done

    def _copy(self):
        """Keep a copy of the state, where one is asked for at this round."""
        if self._keeper.is_copied(self.done):
            with self._untimed():
                self._keeper.copy(self.done, self._state, self._sampler)

    @contextmanager
    def _untimed(self):
        """Keep what happens within out of the speed, once the rounds before it are computed."""
        jax.block_until_ready(self._state)
        began = time.perf_counter()
        yield
        self._untimed_s += time.perf_counter() - began

    def _wall_s(self):
        return self._before_s + time.perf_counter() - self._began

    def figures(self):
        """What the progress bar shows."""
        shown = {} if self._loss is None else {"loss": self._loss}
        shown |= self.history[-1].scores if self.history else {}
        return {name: f"{value:.3f}" for name, value in shown.items()}

    def outcome(self):
        """Sum the run up."""
        wall_s = self._wall_s()
        start_s = self._start_s or 0.0  # nothing was left to do
        timed_s = wall_s - self._before_s - start_s - self._untimed_s
        timed = self.done - self._timed_from
        return Outcome(
            state=self._state,
            history=self.history,
            diverged=self.diverged,
            stopped=self.stopped,
            start_s=start_s,
            wall_s=wall_s,
            rounds_per_s=timed / timed_s if self._start_s and timed else None,
        )
