"""The columns of results.csv and of the history beside it."""

from fl.experiment.results import PROVENANCE

# What a run is. One that is there twice counts once, the later one.
RUN = (
    *("dataset", "model", "clients", "algorithm", "alpha", "local_steps", "rounds", "batch_size"),
    *("seed", "partition", "aggregation", "convergence", "variant", "overrides"),
)
# What secure aggregation took of a round on average: bytes of a client, seconds of all parties by
# stage; and in all rounds, entries that were clipped, clients that vanished, abandoned rounds.
PROTOCOL = (
    *("sent_bytes", "received_bytes"),
    *("advertise_s", "share_s", "mask_s", "confirm_s", "unmask_s"),
    *("clipped", "dropped", "abandoned"),
)
# As the published tables name and order them, as far as they have them.
COLUMNS = (
    *("dataset", "model", "clients", "algorithm", "alpha", "local_steps", "final_accuracy"),
    *("rounds", "batch_size", "seed", "partition", "aggregation"),
    *("rounds_to_convergence", "convergence", "status", "variant", "overrides"),
    *("start_s", "wall_s", "rounds_per_s", *PROTOCOL, *PROVENANCE),
)
HISTORY_COLUMNS = (*RUN, "round", "accuracy", "loss", "date")
