"""Gradient inversion: what could the server reconstruct? (The paper's section 6.1.)

Trains a federation, then attacks what the server would see of one more step: each client's
message, and the aggregate of all. Runs every combination of the data sets, models, algorithms,
seeds and attacks given, and appends a row for each to results.csv. Attacks on the same training
share it. A training that was interrupted goes on from its last checkpoint when the same command is
given again. --gen-images and --gradcams draw pictures instead.
"""

import itertools
import sys
import time
from functools import partial

import gallery
from evaluation import attack, score
from federation import describe, look, train
from schema import COLUMNS
from settings import Options, check, grid, resolve

from fl.experiment import results
from fl.experiment.options import parse
from fl.experiment.program import run_grid, skip_done
from fl.simulation import engine


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    options = resolve(options)
    check(options, parser)
    engine.keep_compiled_code()
    if options.gen_images or options.gradcams:
        return gallery.draw(options)
    try:
        results.check(options.results, COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    cells = list(grid(options))
    if options.skip_done:
        cells = skip_done(options.results, cells, describe)
    trainings = [list(same) for _, same in itertools.groupby(cells, _training)]
    return run_grid(trainings, partial(run_training, options), lambda same: describe(same[0]))


def _training(cell):
    """What of a cell matters to its training."""
    return {name: value for name, value in cell.items() if name not in ("attack", "restarts")}


def run_training(options: Options, cells: list[dict]) -> None:
    """Train once, make each of the attacks asked for on what the server would see, record them."""
    trained = train(options, _training(cells[0]))
    if not trained.outcome.diverged:
        seen, truth = look(options, cells[0], trained)
    for cell in cells:
        scores = {}
        if not trained.outcome.diverged:
            began = time.perf_counter()
            attacked = attack(options, cell, trained, seen)
            scores["attack_s"] = round(time.perf_counter() - began, 2)
            scores |= score(options, cell, attacked, truth)
        record(options.results, cell, trained.outcome, scores)
    trained.checkpoint.unlink(missing_ok=True)


def record(path, cell, outcome, scores):
    """Append a run to the results, and print a line."""
    final = None
    if outcome.history and not outcome.diverged:
        final = outcome.history[-1].scores["accuracy"]
    row = {
        **cell,
        **scores,
        "final_accuracy": final,
        "rounds_run": outcome.history[-1].round if outcome.history else None,
        "status": "diverged" if outcome.diverged else "ok",
        "train_s": round(outcome.wall_s, 2),
        **results.provenance(),
    }
    results.append(path, [row], COLUMNS)
    if outcome.diverged:
        print(f"{describe(cell)}: diverged, recorded as such")
        return
    print(
        f"{describe(cell)}: accuracy {final:.4f}; {cell['attack']} attack: "
        f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, cosine {scores['cosine']:.3f}; "
        f"of the aggregate: PSNR {scores['global_psnr']:.2f} dB; "
        f"{scores['labels_recovered']:.0%} of the labels"
    )


if __name__ == "__main__":
    sys.exit(main())
