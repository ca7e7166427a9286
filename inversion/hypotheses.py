"""Guesses at what the paper's section 6.1 ran, by the names of `--hypothesis`."""

from runs import DEPARTURES

from fl.experiment.departures import Departures
from fl.experiment.hypotheses import Hypothesis


def _published_but(*corrected):
    return Departures.of(name for name in DEPARTURES if name not in corrected)


HYPOTHESES = {
    "shared-noise": Hypothesis(
        "under DP, updates were clipped, all clients added the same noise, and reconstructions "
        "were scored one to one",
        {"shared_noise": True, "as_published": _published_but("dp-clip", "best-match")},
    ),
    "scaled-ratio": Hypothesis(
        "iDLG took SecAdam's ratio times the clients' learning rate for a gradient, and "
        "reconstructions were scored one to one",
        {"scaled_ratio": True, "as_published": _published_but("best-match")},
    ),
    "ssim-range": Hypothesis(
        "SSIM took pixels to span 2", {"as_published": Departures(ssim_range=True)}
    ),
}
