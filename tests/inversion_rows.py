"""Rows of the inversion experiment's results, made up."""

from pathlib import Path

from fl.experiment import results

FOLDER = Path(__file__).parents[1] / "inversion"
RUN = {
    **{"dataset": "digits", "model": "lenet", "clients": 10, "algorithm": "fedavg"},
    **{"attack": "representation", "clip": None, "noise": None, "final_accuracy": 0.8},
    **{"epsilon": None, "delta": None},
    **{"psnr": 15.0, "ssim": 0.4, "cosine": 0.5, "global_psnr": 9.0, "global_ssim": 0.2},
    **{"global_cosine": 0.3, "labels_recovered": 0.9, "classifier_distance": None, "seed": 0},
    **{"rounds": 200, "rounds_run": 120, "batch_size": 8, "alpha": 0.5, "partition": "lda"},
    **{"local_steps": 1, "window": None, "attack_round": None, "protection": None},
    **{"recovered": None, "chance_psnr": None, "ceiling_psnr": None, "global_recovered": None},
    **{"global_chance_psnr": None, "global_ceiling_psnr": None},
    **{"restarts": 1, "converge": 0.8, "status": "ok", "variant": "corrected"},
    **{"departures": None, "overrides": None},
    **{"date": "2026-11-22T10:53:50Z"},
}


def write(path, found):
    """Write rows like `RUN` into a results file; return its path."""
    results.append(path, found, list(RUN))
    return path
