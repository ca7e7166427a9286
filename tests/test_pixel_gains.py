"""Gains by activations are believed unless exact ones contradict them."""

import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

pixel_gains, brightness = load("inversion", "pixel_gains", "brightness")

PIXELS = 64


@pytest.mark.parametrize(
    ("error", "share", "wrong"), [(0.2, 0.9, True), (0.003, 0.9, False), (0.2, 0.3, False)]
)
def test_exact_gains_tell_wrong_ones_if_there_are_enough_of_them(error, share, wrong):
    rng = np.random.default_rng(0)
    truth = np.exp(rng.normal(size=PIXELS))
    exact = rng.random(PIXELS) < share
    of_steps = brightness.Gains(
        jnp.asarray(np.where(exact, truth, 1.0).reshape(8, 8, 1)),
        jnp.asarray(exact.reshape(8, 8, 1)),
    )
    gains = jnp.asarray(truth * (1 + error * rng.normal(size=PIXELS)))
    assert pixel_gains.far_off(gains, of_steps) is wrong
