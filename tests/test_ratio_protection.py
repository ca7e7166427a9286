"""What is done to ratios before the server sees them."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

(ratio_protection,) = load("inversion", "ratio_protection")
protection = ratio_protection.protection

RATIO = {"kernel": jnp.linspace(-3, 3, 41).reshape(1, 41), "bias": jnp.zeros(5)}
KEY = jax.random.key(0)


def apply(name, ratio=RATIO, key=KEY):
    return jax.jit(protection(name).apply)(ratio, key)


def test_smaller_types_round_to_the_nearest_number():
    for name, error in (("float16", 2**-11), ("bfloat16", 2**-8)):
        found = apply(name)
        np.testing.assert_allclose(found["kernel"], RATIO["kernel"], rtol=error)
        assert (found["kernel"] != RATIO["kernel"]).any()
        assert found["kernel"].dtype == jnp.float32


def test_eight_bits_are_right_on_average_and_are_eight_bits():
    keys = jax.random.split(KEY, 4000)
    many = jax.vmap(lambda key: protection("int8").apply(RATIO, key)["kernel"])(keys)
    step = 3 / 127
    assert len(np.unique(np.round(np.asarray(many) / step))) <= 256
    assert float(jnp.abs(many - RATIO["kernel"][None]).max()) <= step * 1.001
    mean, deviation = many.mean(0), step / 2 / np.sqrt(len(keys))
    assert float(jnp.abs(mean - RATIO["kernel"]).max()) < 5 * deviation


def test_the_sign_alone():
    assert apply("sign")["kernel"].tolist() == np.sign(RATIO["kernel"]).tolist()


def test_noise_has_its_deviation_and_differs_by_leaf():
    found = apply("noise=0.5", {"a": jnp.zeros(20000), "b": jnp.zeros(20000)})
    assert float(found["a"].std()) == pytest.approx(0.5, rel=0.05)
    assert float(jnp.corrcoef(found["a"], found["b"])[0, 1]) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8", "sign"])
def test_zeros_stay_zeros(name):
    assert (apply(name)["bias"] == 0).all()


@pytest.mark.parametrize("name", ["int4", "noise", "noise=", "noise=-1", "noise=inf", "noise=x"])
def test_unknown_ones_are_refused_in_a_sentence(name):
    with pytest.raises(argparse.ArgumentTypeError, match=r"choose from|is a number above 0"):
        ratio_protection.protection_name(name)


def test_the_same_name_is_the_same_function():
    assert protection("noise=0.1") is protection("noise=0.1")
    assert ratio_protection.protection_name("none") == "none"
