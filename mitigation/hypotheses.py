"""Guesses at what the paper's section 6.3 ran, by the names of `--hypothesis`."""

from runs import DEPARTURES

from fl.experiment.departures import Departures
from fl.experiment.hypotheses import Hypothesis

PUBLISHED = {"as_published": Departures.of(DEPARTURES)}
MOST = Departures.of(name for name in DEPARTURES if name != "poison-share")
HYPOTHESES = {
    "small-clip": Hypothesis(
        "clip and noise scaled steps down to a norm of 0.001", {**PUBLISHED, "clip_norm": 0.001}
    ),
    "few-models": Hypothesis(
        "100 smoothed models voted, for a radius of 0.3 without PGD, and certificates took samples "
        "for poisoned as drawn, and uploads for not scaled",
        {"as_published": MOST, "smoothed_models": 100, "scale_factor": 1.0},
    ),
    "small-rates": Hypothesis(
        "clients and server learned at 0.001, as in the other experiments",
        {**PUBLISHED, "client_rate": 0.001, "server_rate": 0.001},
    ),
}
