"""The columns of results.csv."""

from fl.experiment.results import PROVENANCE

# What a run is. One that is there twice counts once, the later one.
RUN = (
    *("dataset", "model", "clients", "algorithm", "attack", "clip", "noise", "seed", "rounds"),
    *("batch_size", "alpha", "partition", "restarts", "converge", "variant", "overrides"),
)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "algorithm", "attack", "clip", "noise", "final_accuracy"),
    *("psnr", "ssim", "cosine", "global_psnr", "global_ssim", "global_cosine"),
    *("labels_recovered", "classifier_distance", "seed", "rounds", "rounds_run", "batch_size"),
    *("alpha", "partition", "restarts", "converge", "status", "variant", "overrides"),
    *("train_s", "attack_s", *PROVENANCE),
)
