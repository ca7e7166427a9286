"""Backdoors, defences and certificates (the paper's section 6.3).

Trains a federation, lets adversaries attack it, and certifies the model at the end. Runs every
combination of the data sets, models, algorithms, attacks, defences, eps and seeds given, and
appends a row for each to results.csv, its evaluations to results.history.csv and the curve of its
certificate to results.curves.csv. Runs that differ in their attack alone share the rounds before
it. A run that was interrupted goes on from its last checkpoint when the same command is given
again.
"""

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial

from certify import certify, vote
from federation import UnusableError, describe, train
from recovery import first_asr, recovery_rounds
from schema import COLUMNS, CURVE, CURVE_COLUMNS, HISTORY_COLUMNS
from settings import Options, before_attack, check, grid, resolve, training
from stages import attack

from fl.experiment import results
from fl.experiment.options import parse
from fl.experiment.program import run_grid, skip_done
from fl.simulation import engine


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    options = resolve(options, parser)
    check(options, parser)
    engine.keep_compiled_code()
    try:
        results.check(options.results, COLUMNS)
        results.check(results.history_path(options.results), HISTORY_COLUMNS)
        results.check(results.curves_path(options.results), CURVE_COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    cells = list(grid(options))
    if options.skip_done:
        cells = skip_done(options.results, cells, describe)
    together = grouped(cells, partial(before_attack, options))
    try:
        return run_grid(together, partial(run_attacks, options), lambda same: describe(same[0]))
    except UnusableError as error:
        parser.error(str(error))


def grouped(cells: list[dict], key: Callable) -> list[list[dict]]:
    """Neighbouring cells that have a key in common."""
    return [list(same) for _, same in itertools.groupby(cells, key)]


def run_attacks(options: Options, cells: list[dict]) -> None:
    """Run the rounds before the attack once, then attack in each of the ways asked for."""
    clean = train(options, cells[0])
    for same in grouped(cells, partial(training, options)):
        attacked = attack(options, same[0], clean)
        certifies = same[0]["attack"] != "none" and not attacked.diverged
        began = time.perf_counter()
        ballot = vote(options, same[0], attacked.state.params, clean.dataset) if certifies else None
        times = {
            "train_s": round(clean.outcome.wall_s + attacked.wall_s, 2),
            "certify_s": round(time.perf_counter() - began, 2) if certifies else None,
        }
        for cell in same:
            certified = certify(options, cell, ballot) if certifies else None
            record(options.results, cell, attacked, certified, times)
        for path in attacked.checkpoints:
            path.unlink(missing_ok=True)
    clean.checkpoint.unlink(missing_ok=True)


def record(path, cell, attacked, certified, times):
    """Append a run to the results, after what belongs to it in other files, and print a line."""
    provenance = results.provenance()
    evaluations = [
        {**cell, "round": each.round, **each.scores, "loss": each.loss, "date": provenance["date"]}
        for each in attacked.history
    ]
    results.append(results.history_path(path), evaluations, HISTORY_COLUMNS)
    points = [
        {**cell, **dict(zip(CURVE, point, strict=True)), "date": provenance["date"]}
        for point in (certified.curve if certified else ())
    ]
    results.append(results.curves_path(path), points, CURVE_COLUMNS)
    row = {**cell, "status": "diverged" if attacked.diverged else "ok", **times, **provenance}
    if not attacked.diverged:
        final = attacked.history[-1].scores
        row |= {
            "final_accuracy": final["accuracy"],
            "first_asr": first_asr(cell, attacked.history),
            "final_asr": final["asr"],
            "recovery_rounds": recovery_rounds(cell, attacked.history),
            **(certified.scores if certified else {}),
        }
    results.append(path, [row], COLUMNS)
    print(summarise(cell, row))


def summarise(cell, row):
    """A run's outcome in a line."""
    if row["status"] == "diverged":
        return f"{describe(cell)}: diverged, recorded as such"
    parts = [f"accuracy {row['final_accuracy']:.4f}", f"attack success {row['final_asr']:.3f}"]
    if cell["attack"] != "none":
        parts[1] += f" (at first {row['first_asr']:.3f})"
        if cell["attack"] == "one_shot":
            parts.append(f"above 1 % for {row['recovery_rounds']} rounds")
        parts.append(f"certified {row['certified_accuracy']:.4f} at {cell['delta']:g}")
    return f"{describe(cell)}: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
