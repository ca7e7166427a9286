"""What came of a run: the rows of it in the results files, and a line on the screen."""

from pathlib import Path

import attack_success
from attacks import ATTACKS
from certificate import Certified
from runs import COLUMNS, CURVE, CURVE_COLUMNS, HISTORY_COLUMNS, Run, describe
from stages import Attacked

from fl.experiment import results
from fl.experiment.provenance import provenance
from fl.experiment.runs import cells


def check(path: Path) -> None:
    """Make sure, before a run starts, that it can be recorded.

    Raises:
        results.ResultsError: if it cannot.
    """
    results.check(path, COLUMNS)
    results.check(results.history_path(path), HISTORY_COLUMNS)
    results.check(results.curves_path(path), CURVE_COLUMNS)


def record(
    path: Path, run: Run, attacked: Attacked, certified: Certified | None, seconds: dict
) -> None:
    """Append a run to the results, after what belongs to it in other files, and print a line.

    Args:
        path: the results file.
        run: that was made.
        attacked: what came of it.
        certified: what its certificate says; None without one.
        seconds: column -> time that was taken, None for none.
    """
    own, where = cells(run), provenance(run)
    date = {"date": where["date"]}
    evaluations = [
        own | each.scores | {"round": each.round, "loss": each.loss} | date
        for each in attacked.history
    ]
    results.append(results.history_path(path), evaluations, HISTORY_COLUMNS)
    curve = certified.curve if certified else ()
    points = [own | dict(zip(CURVE, point, strict=True)) | date for point in curve]
    results.append(results.curves_path(path), points, CURVE_COLUMNS)
    row = own | seconds | where | _scores(run, attacked, certified)
    results.append(path, [row], COLUMNS)
    print(f"{describe(run)}: {_summary(run, row)}")


def _scores(run, attacked, certified):
    if attacked.diverged:
        return {"status": "diverged"}
    final = attacked.history[-1].scores
    scores = {"status": "ok", "final_accuracy": final["accuracy"], "final_asr": final["asr"]}
    if run.adversaries is not None:
        first = run.start_round + 1
        scores["first_asr"] = attack_success.first(attacked.history, first)
        scores["recovery_rounds"] = ATTACKS[run.attack].recovery(attacked.history, first)
    return scores | (certified.scores if certified else {})


def _summary(run, row):
    if row["status"] == "diverged":
        return "diverged, recorded as such"
    parts = [f"accuracy {row['final_accuracy']:.4f}", f"attack success {row['final_asr']:.3f}"]
    if "first_asr" in row:
        parts[1] += f" (at first {row['first_asr']:.3f})"
    if row.get("recovery_rounds"):
        parts.append(
            f"above {100 * attack_success.RECOVERED:g} % for {row['recovery_rounds']} rounds"
        )
    if "certified_accuracy" in row:
        parts.append(f"certified {row['certified_accuracy']:.4f} at {run.delta:g}")
    return ", ".join(parts)
