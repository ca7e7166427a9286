"""The columns of results.csv, of the history beside it, and of the certificates' curves."""

from fl.experiment.results import PROVENANCE

# What a run is. One that is there twice counts once, the later one.
RUN = (
    *("dataset", "model", "clients", "algorithm", "attack", "defence", "eps", "delta"),
    *("adversaries", "seed", "rounds", "start_round", "local_steps", "batch_size"),
    *("alpha", "partition", "variant", "overrides"),
)
SCORES = (
    *("final_accuracy", "certified_accuracy", "first_asr", "final_asr", "certified_asr"),
    "recovery_rounds",
)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "attack", "defence", "eps", *SCORES, "seed"),
    *("algorithm", "delta", "adversaries", "rounds", "start_round", "local_steps", "batch_size"),
    *("alpha", "partition", "abstained", "median_radius", "status", "variant", "overrides"),
    *("train_s", "certify_s", *PROVENANCE),
)
HISTORY_COLUMNS = (*RUN, "round", "accuracy", "asr", "loss", "date")
CURVE = ("radius", "certified_accuracy", "certified_asr")
CURVE_COLUMNS = (*RUN, *CURVE, "date")
