"""What clipping and noise are worth: client-level (epsilon, delta)-differential privacy.

**Of whom.** Two federations are neighbours if one client's data are there in one of them and not in
the other (add or remove one client). The client itself stays: it then sends zeros and noise, since
the number of clients n, and the noise of each, are public.

**Of what.** All that the server ever makes of the *sums* of the clients' messages, which is what
secure aggregation shows. In each of T rounds every client takes part (there is no sampling that
would amplify privacy), and sends a vector of L2 norm at most C: an update, or both of SecAdam's
moments as one vector. So the client moves the sum by at most C, whatever its message is made of.
Every client adds N(0, sigma^2) to every entry, so the sum has noise of deviation sqrt(n) sigma:
a Gaussian mechanism of noise multiplier z = sqrt(n) sigma / C, adaptively composed T times, which
is one of multiplier z / sqrt(T). Its epsilon is exact (Balle and Wang 2018, arXiv:1805.06530,
theorem 8). Ratios, floors and models are made of the sums, and cost nothing.

**What is not covered.**

* A client's own message, seen by whoever gets past secure aggregation: it has the noise of one
  client alone, so that its multiplier is sigma / C. That weaker guarantee is `own_epsilon`.
* Clients who work with the server take off their own noise: k of n leave z sqrt((n - k) / n). So do
  k who drop out.
* What was chosen by looking at the data: the clip, learning rates, when to stop.
* What a simulation prints and no server sees, such as the mean loss of training.
* Noise is taken to be of real numbers, and messages to be added up without rounding. Floats are
  not, nor are the integers of secure aggregation (Kairouz et al. 2021, arXiv:2102.06387).
"""

import math
from typing import NamedTuple


class Guarantee(NamedTuple):
    """That one client's data change no probability by more than a factor e^epsilon, plus delta.

    Attributes:
        epsilon: of the sums that the server sees, at least 0; infinite for no guarantee.
        own_epsilon: the same of one client's own messages.
        delta: in (0, 1).
        rounds: T, in all of which every client takes part.
        sensitivity: L2 norm by which a client moves a round's sum at most; infinite for unclipped.
        multiplier: deviation of the sum's noise, over the sensitivity.
    """

    epsilon: float
    own_epsilon: float
    delta: float
    rounds: int
    sensitivity: float
    multiplier: float

    def __str__(self) -> str:
        """The guarantee in a line."""
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} of the sums of {self.rounds} "
            f"rounds, add or remove one client (noise multiplier {self.multiplier:.3g}); a "
            f"client's own messages alone: epsilon {self.own_epsilon:.3g}"
        )


def guarantee(
    sensitivity: float, noise: float, clients: int, rounds: int, delta: float
) -> Guarantee:
    """Account for rounds of messages that are clipped and noised.

    Args:
        sensitivity: L2 norm of a message at most, above 0; infinite where nothing bounds it.
        noise: deviation of the noise that each client adds to every entry, at least 0.
        clients: n, whose messages are added up, at least 1.
        rounds: T, at least 1.
        delta: in (0, 1); well below 1 / n, or giving a client away altogether would be allowed.

    Raises:
        ValueError: for what is out of its range.
    """
    if not sensitivity > 0 or not noise >= 0:
        raise ValueError(f"sensitivity {sensitivity}, noise {noise}: out of range")
    _check(clients, rounds, delta)
    from dp_accounting import get_epsilon_gaussian  # takes seconds to load

    own = noise / sensitivity
    multiplier = math.sqrt(clients) * own
    of_sums, of_own = (
        float(get_epsilon_gaussian(each / math.sqrt(rounds), delta)) for each in (multiplier, own)
    )
    return Guarantee(of_sums, of_own, delta, rounds, sensitivity, multiplier)


def noise_for(epsilon: float, sensitivity: float, clients: int, rounds: int, delta: float) -> float:
    """The least noise of each client with which `guarantee` has this epsilon.

    Args:
        epsilon: of the sums, above 0.
        sensitivity: L2 norm of a message at most, above 0 and finite.
        clients: n, at least 1.
        rounds: T, at least 1.
        delta: in (0, 1).

    Raises:
        ValueError: for what is out of its range.
    """
    if not epsilon > 0 or not 0 < sensitivity < math.inf:
        raise ValueError(f"epsilon {epsilon}, sensitivity {sensitivity}: out of range")
    _check(clients, rounds, delta)
    from dp_accounting import get_sigma_gaussian

    of_one_round = float(get_sigma_gaussian(epsilon, delta))
    return sensitivity * of_one_round * math.sqrt(rounds / clients)


def _check(clients, rounds, delta):
    if clients < 1 or rounds < 1 or not 0 < delta < 1:
        raise ValueError(f"{clients} clients, {rounds} rounds, delta {delta}: out of range")
