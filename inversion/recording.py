"""What came of a run: its row in results.csv, and the line that is printed."""

from pathlib import Path

from runs import COLUMNS, Run, describe

from fl.experiment import results
from fl.experiment.provenance import provenance
from fl.experiment.runs import cells
from fl.simulation.run import Outcome


def record(path: Path, run: Run, outcome: Outcome, scores: dict[str, float]) -> None:
    """Append a run to the results, and print a line.

    Args:
        path: the results file.
        run: what was run.
        outcome: of its training.
        scores: of its attack, by column; empty where training diverged.

    Raises:
        results.ResultsError: see `results.append`.
    """
    last = outcome.history[-1] if outcome.history else None
    final = last.scores["accuracy"] if last and not outcome.diverged else None
    row = {
        **cells(run),
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
    print(
        f"{describe(run)}: accuracy {final:.4f}; {run.attack} attack: "
        f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, cosine {scores['cosine']:.3f}; "
        f"of the aggregate: PSNR {scores['global_psnr']:.2f} dB; "
        f"{scores['labels_recovered']:.0%} of the labels"
    )
