"""Model replacement: what the mean of the uploads becomes, and what the adversary keeps."""

import jax.numpy as jnp
import numpy as np
from experiments import load

(module,) = load("mitigation", "model_replacement")

CLIENTS = 5


def test_the_adversarys_update_takes_the_place_of_the_mean():
    """Equation 3 of Bagdasaryan et al.: the others' updates count for 1 / n each."""
    updates = np.random.default_rng(0).normal(size=(CLIENTS, 7))
    deviate = module.model_replacement(CLIENTS)
    sent = updates.copy()
    sent[2], _ = deviate(jnp.asarray(updates[2]), None, None)
    others = np.delete(updates, 2, axis=0).sum(0) / CLIENTS
    np.testing.assert_allclose(sent.mean(0), updates[2] + others, rtol=1e-5)


def test_the_adversary_goes_on_from_the_state_that_it_had():
    _, kept = module.model_replacement(CLIENTS)({"w": jnp.ones(2)}, "after", "before")
    assert kept == "before"


def test_equal_factors_share_compiled_code():
    """The engine compiles anew for each function that it is given."""
    assert module.model_replacement(7) is module.model_replacement(7)
    assert module.model_replacement(7) is not module.model_replacement(8)
