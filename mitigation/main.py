"""Backdoors, defences and certificates (the paper's section 6.3).

Trains a federation, lets adversaries attack it, and certifies the model at the end. Runs every
combination of the data sets, models, algorithms, attacks, defences, eps and seeds given, and
appends a row for each to results.csv, its evaluations to results.history.csv and the curve of its
certificate to results.curves.csv. Runs that differ in their attack alone share the rounds before
it. A run that was interrupted goes on from its last checkpoint when the same command is given
again.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import recording
from certificate import certify, vote
from federation import Clean, UnusableError, before_attack, rounds_of, train
from options import Options, check, grid, resolve
from runs import Run, describe
from stages import Attacked, attack

from fl.experiment.cells import print_left
from fl.experiment.options import parse
from fl.experiment.program import run_grid, skip_done
from fl.experiment.results import ResultsError
from fl.experiment.startup import begin
from fl.simulation import checkpoint, processes


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    given, parser = parse(Options, __doc__)
    options = resolve(given, parser)
    check(options, parser)
    begin(options, parser)
    try:
        if processes.leads():
            recording.check(options.results)
    except ResultsError as error:
        parser.error(f"argument --results: {error}")
    if options.list:  # attacks share the rounds before them
        return print_left(given, lambda some: grid(resolve(some, parser)), ("attack",))
    runs = list(grid(options))
    if options.skip_done or options.plan:
        runs = skip_done(options.results, runs, describe)
    if options.plan:
        return 0
    try:
        together = alike(runs, before_attack)
        return run_grid(together, partial(run_attacks, options), lambda same: describe(same[0]))
    except UnusableError as error:
        parser.error(str(error))


def alike(runs: list[Run], key: Callable[[Run], Run]) -> list[list[Run]]:
    """Runs that have a key in common, in the order of the first of each."""
    groups = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def run_attacks(options: Options, runs: list[Run]) -> None:
    """Run the rounds before the attack once, then attack in each of the ways asked for."""
    kept = {"results_path": options.results, "evaluate_every": options.evaluate_every}
    clean = train(runs[0], options.data_dir, **kept)
    for same in alike(runs, rounds_of):
        attacked = attack(same[0], clean, **kept)
        processes.by_leader(partial(certify_and_record, options, same, clean, attacked))
    checkpoint.remove(clean.checkpoint)


def certify_and_record(options: Options, runs: list[Run], clean: Clean, attacked: Attacked) -> None:
    """Certify the model of runs that share all of their rounds, and keep what came of each."""
    certifies = runs[0].delta is not None and not attacked.diverged
    began = time.perf_counter()
    params = processes.on_one_device(attacked.state.params)
    ballot = vote(runs[0], params, clean.dataset) if certifies else None
    seconds = {
        "train_s": round(clean.outcome.wall_s + attacked.wall_s, 2),
        "certify_s": round(time.perf_counter() - began, 2) if certifies else None,
    }
    for run in runs:
        certified = certify(run, ballot) if certifies else None
        recording.record(options.results, run, attacked, certified, seconds)
    for path in attacked.checkpoints:
        checkpoint.remove(path)


if __name__ == "__main__":
    sys.exit(main())
