"""Gradient inversion: what could the server reconstruct? (The paper's section 6.1.)

Trains a federation, then attacks what the server would see of one more step: each client's
message, and the aggregate of all. Runs every combination of the data sets, models, algorithms,
seeds and attacks given, and appends a row for each to results.csv. Attacks on the same training
share it. A training that was interrupted goes on from its last checkpoint when the same command is
given again. --gen-images, --aggregates and --gradcams draw pictures
instead.
"""

import itertools
import sys
import time
from functools import partial

import classifier_metric
import federation
from attacks import ATTACKS
from federation import Trained
from grid import grid
from option_checks import check, check_attacks
from options import PICTURES, Options, resolve
from reconstruction import attack
from recording import record
from runs import COLUMNS, Run, describe
from scores import GLOBAL, classifier_distance, score, score_window
from window_reconstruction import attack_window

from fl.experiment import results
from fl.experiment.cells import print_left
from fl.experiment.options import parse
from fl.experiment.program import run_grid, skip_done
from fl.experiment.startup import begin
from fl.simulation import processes


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    given, parser = parse(Options, __doc__)
    options = resolve(given)
    check(options, parser)
    begin(options, parser)
    check_attacks(options, parser)
    for name in PICTURES:
        if getattr(options, name) and (options.plan or options.list):
            return 0
        if getattr(options, name):
            import pictures  # and Matplotlib, which takes long

            where = options.results, options.data_dir
            kind = pictures.KINDS[name]
            return pictures.draw(kind, list(grid(options)), *where, options.skip_done)
    try:
        if processes.leads():
            results.check(options.results, COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    if options.list:  # attacks on one training share it
        return print_left(given, lambda some: grid(resolve(some)), ("attack", "attack_round"))
    runs = list(grid(options))
    if options.skip_done or options.plan:
        runs = skip_done(options.results, runs, describe)
    if options.plan:
        return 0
    trainings = [list(same) for _, same in itertools.groupby(runs, Run.training)]
    return run_grid(trainings, partial(train_and_attack, options), lambda same: describe(same[0]))


def train_and_attack(options: Options, runs: list[Run]) -> None:
    """Make runs that share their training: each attacks what the server would see after it."""
    stops = {run.rounds_before for run in runs} - {None}
    trained = federation.train(runs[0], options.data_dir, options.results, stops)
    seen = {}
    for run in runs:
        scores = {}
        if not trained.outcome.diverged:
            make = attack_many_rounds if ATTACKS[run.attack].watches else attack_one_round
            scores = make(options, run, trained, seen)
        kept = options.results, run, trained.outcome, scores, options.delta
        processes.by_leader(partial(record, *kept))
    if processes.leads():
        trained.remove_checkpoints()


def attack_one_round(options: Options, run: Run, trained: Trained, seen: dict) -> dict:
    """Attack the messages of one step -> columns of results.csv.

    Args:
        options: of which the classifier metric matters here.
        run: the run.
        trained: its training.
        seen: rounds of training -> what the server sees then; filled in here.

    Returns:
        The columns; none in a process that does not lead.
    """
    if run.rounds_before not in seen:
        seen[run.rounds_before] = federation.one_more_step(trained, run)
    if seen[run.rounds_before] is None:
        return {}
    observation, truth = seen[run.rounds_before]
    began = time.perf_counter()
    attacked = attack(run, trained.public, observation)
    scores = {"attack_s": round(time.perf_counter() - began, 2)}
    scores |= score(attacked, truth, trained.samples, run.departures)
    if options.classifier_metric:
        classifier = classifier_metric.load(run.dataset, options.data_dir)
        scores["classifier_distance"] = classifier_distance(attacked, truth, classifier)
    return scores


def attack_many_rounds(options: Options, run: Run, trained: Trained, seen: dict) -> dict:
    """Attack the messages of a window of rounds; as `attack_one_round`."""
    began = time.perf_counter()
    found = attack_window(run, trained)
    if found is None:
        return {}
    attacked, ceiling, behind = found
    scores = {"attack_s": round(time.perf_counter() - began, 2)}
    if ceiling is not None:
        at_most = score_window(ceiling, behind, trained.samples)
        names = [name for name in at_most if name.removeprefix(GLOBAL) == "psnr"]
        scores |= {name.replace("psnr", "ceiling_psnr"): at_most[name] for name in names}
    return scores | score_window(attacked, behind, trained.samples)


if __name__ == "__main__":
    sys.exit(main())
