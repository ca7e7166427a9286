"""What came of a run: rows of the results files, and a line to read."""

from pathlib import Path

from federation import Trained
from runs import COLUMNS, HISTORY_COLUMNS, Run, describe

from fl.experiment import results
from fl.experiment.provenance import provenance
from fl.experiment.runs import cells

# Columns that count what secure aggregation lost, and what to call it.
LOST = {"clipped": "entries clipped", "dropped": "drop-outs", "abandoned": "rounds abandoned"}


def check(path: Path) -> None:
    """Make sure, before a run starts, that it can be recorded.

    Raises:
        results.ResultsError: if it cannot.
    """
    results.check(path, COLUMNS)
    results.check(results.history_path(path), HISTORY_COLUMNS)


def record(path: Path, run: Run, trained: Trained) -> None:
    """Append a run to the results, after its evaluations to the history, and print a line.

    Args:
        path: the results file.
        run: which.
        trained: what came of it.
    """
    where, outcome = provenance(run), trained.outcome
    evaluations = [
        {
            **cells(run),
            "round": evaluation.round,
            **evaluation.scores,
            "loss": evaluation.loss,
            "date": where["date"],
        }
        for evaluation in outcome.history
    ]
    results.append(results.history_path(path), evaluations, HISTORY_COLUMNS)
    final = None
    if outcome.history and not outcome.diverged:
        final = outcome.history[-1].scores["accuracy"]
    row = {
        **cells(run),
        "final_accuracy": final,
        "rounds_to_convergence": outcome.stopped,
        "status": "diverged" if outcome.diverged else "ok",
        "start_s": round(outcome.start_s, 2),
        "wall_s": round(outcome.wall_s, 2),
        "rounds_per_s": outcome.rounds_per_s and round(outcome.rounds_per_s, 2),
        **trained.protocol,
        **where,
    }
    results.append(path, [row], COLUMNS)
    print(_line(run, row))


def _line(run, row):
    if row["status"] == "diverged":
        came = "diverged, recorded as such"
    elif row["rounds_to_convergence"]:
        came = f"accuracy {row['final_accuracy']:.4f} after {row['rounds_to_convergence']} rounds"
    else:
        came = f"final accuracy {row['final_accuracy']:.4f}"
    lost = [f"{row[name]:,} {what}" for name, what in LOST.items() if row.get(name)]
    return "; ".join([f"{describe(run)}: {came}", *lost])
