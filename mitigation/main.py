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
from functools import partial

from certify import certify
from federation import AFTERWARDS, UnusableError, describe, train
from schema import COLUMNS, CURVE, CURVE_COLUMNS, HISTORY_COLUMNS
from settings import Options, check, grid, resolve
from stages import attack, first_asr, recovery_rounds

from fl import results, simulation
from fl.experiment import run_grid, skip_done
from fl.options import parse


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    options = resolve(options, parser)
    check(options, parser)
    simulation.keep_compiled_code()
    try:
        results.check(options.results, COLUMNS)
        results.check(results.history_path(options.results), HISTORY_COLUMNS)
        results.check(results.curves_path(options.results), CURVE_COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    cells = list(grid(options))
    if options.skip_done:
        cells = skip_done(options.results, cells)
    together = [list(same) for _, same in itertools.groupby(cells, before_attack)]
    try:
        return run_grid(together, partial(run_attacks, options), lambda same: describe(same[0]))
    except UnusableError as error:
        parser.error(str(error))


def before_attack(cell: dict) -> tuple:
    """What of a cell its rounds before the attack depend on."""
    return tuple(value for name, value in cell.items() if name not in AFTERWARDS)


def run_attacks(options: Options, cells: list[dict]) -> None:
    """Run the rounds before the attack once, then attack in each of the ways asked for."""
    clean = train(options, cells[0])
    for cell in cells:
        attacked = attack(options, cell, clean)
        certified, seconds = None, None
        if cell["attack"] != "none" and not attacked.diverged:
            began = time.perf_counter()
            certified = certify(options, cell, attacked.state.params, clean.dataset)
            seconds = round(time.perf_counter() - began, 2)
        times = {"train_s": round(clean.outcome.wall_s + attacked.wall_s, 2), "certify_s": seconds}
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
        parts.append(f"recovered after {row['recovery_rounds']} rounds")
        parts.append(f"certified {row['certified_accuracy']:.4f} at {cell['delta']:g}")
    return f"{describe(cell)}: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
