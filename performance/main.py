"""Federated training under one algorithm or several (the paper's section 6.2).

Runs every combination of the data sets, models, algorithms, alphas, local steps and seeds given,
and appends a row for each to results.csv and its evaluations to results.history.csv. A run that
was interrupted goes on from its last checkpoint when the same command is given again.
"""

import sys
from functools import partial

import recording
from federation import plan, train_federation
from options import Options, check, grid
from runs import Run, describe

from fl.experiment.cells import print_left
from fl.experiment.options import parse
from fl.experiment.program import run_grid, skip_done
from fl.experiment.results import ResultsError
from fl.experiment.startup import begin, checkpoint_path
from fl.simulation import checkpoint, processes


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    check(options, parser)
    begin(options, parser)
    try:
        if processes.leads():
            recording.check(options.results)
    except ResultsError as error:
        parser.error(f"argument --results: {error}")
    if options.list:
        return print_left(options, grid)
    runs = list(grid(options))
    if options.skip_done or options.plan:
        runs = skip_done(options.results, runs, describe)
    if options.plan:
        return 0
    return run_grid(runs, partial(train_and_record, options), describe)


def train_and_record(options: Options, run: Run) -> None:
    """Make a run, keep what came of it, and give its checkpoint up."""
    planned = plan(run, options.evaluate_every)
    saved = checkpoint_path(options.results, run, planned)
    trained = train_federation(run, planned, options.data_dir, saved)
    if processes.leads():
        recording.record(options.results, run, trained)
    checkpoint.remove(saved)


if __name__ == "__main__":
    sys.exit(main())
