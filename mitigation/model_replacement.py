"""Model replacement (Bagdasaryan et al. 2020, arXiv:1807.00459, section 3.2)."""

from collections.abc import Callable
from functools import lru_cache

import optax


# The same function for the same factor: rounds of runs that differ in their seed share compiled
# code.
@lru_cache
def model_replacement(scale_factor: float) -> Callable:
    """Boost an adversary's upload, so that its model takes the place of the average.

    Equation 3 of the paper: the adversary sends gamma times its update. With gamma the number of
    clients, and the others close to convergence, the mean of all uploads becomes the adversary's.

    Args:
        scale_factor: gamma, above 0.

    Returns:
        What a deviating client does, see `fl.simulation.rounds.Work`. It keeps the optimizer state
        that it had before, and so goes on as if it had not taken part.
    """

    def deviate(message, state, before):
        return optax.tree.scale(scale_factor, message), before

    return deviate
