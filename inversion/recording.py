"""What came of a run: its row in results.csv, and the line that is printed."""

from pathlib import Path

from runs import COLUMNS, Run, describe
from scores import GLOBAL

from fl.experiment import results
from fl.experiment.provenance import provenance
from fl.experiment.runs import cells
from fl.simulation.run import Outcome

# Prefix of columns, and what is said before them.
SOURCES = {"": "", GLOBAL: "of the aggregate: "}


def record(
    path: Path, run: Run, outcome: Outcome, scores: dict[str, float], delta: float | None
) -> None:
    """Append a run to the results, and print a line.

    Args:
        path: the results file.
        run: what was run.
        outcome: of its training.
        scores: of its attack, by column; empty where training diverged.
        delta: at which the epsilon of its differential privacy is stated; None without.

    Raises:
        results.ResultsError: see `results.append`.
    """
    last = outcome.history[-1] if outcome.history else None
    final = last.scores["accuracy"] if last and not outcome.diverged else None
    guarantee = run.guarantee(delta)
    row = {
        **cells(run),
        **({"epsilon": guarantee.epsilon, "delta": delta} if guarantee else {}),
        **scores,
        "final_accuracy": final,
        "rounds_run": last.round if last else None,
        "status": "diverged" if outcome.diverged else "ok",
        "train_s": round(outcome.wall_s, 2),
        **provenance(run),
    }
    results.append(path, [row], COLUMNS)
    if outcome.diverged:
        print(f"{describe(run)}: diverged, recorded as such")
        return
    if guarantee:
        print(f"{describe(run)}: {guarantee}")
    said = [f"{describe(run)}: accuracy {final:.4f}; {run.attack} attack: "]
    said += [_line(scores, prefix, title) for prefix, title in SOURCES.items()]
    if "labels_recovered" in scores:
        said.append(f"{scores['labels_recovered']:.0%} of the labels")
    print(said[0] + "; ".join(filter(None, said[1:])))


def _line(scores, prefix, title):
    """What the scores of clients, or of the aggregate, say."""
    if prefix + "psnr" not in scores:
        return ""
    chance = scores.get(f"{prefix}chance_psnr")
    beside = "" if chance is None else f" (chance {chance:.2f} dB)"
    return (
        f"{title}PSNR {scores[prefix + 'psnr']:.2f} dB{beside}, SSIM {scores[prefix + 'ssim']:.3f}"
    )
