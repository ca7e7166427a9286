"""Rounds spread over devices are those of one device."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from sharded_rounds import CASE, names

from fl.simulation import sharding
from fl.simulation.mapping import Mapper

HERE = Path(__file__).parent
DEVICES = "--xla_force_host_platform_device_count="


def environment(devices):
    path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"XLA_FLAGS": f"{DEVICES}{devices}", "JAX_PLATFORMS": "cpu"}
    return os.environ | settings | {"PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What comes of the rounds of `sharded_rounds`, by the number of devices."""
    folder = tmp_path_factory.mktemp("sharded")

    @cache
    def on(devices):
        output = folder / f"{devices}.npz"
        command = [sys.executable, "-W", "error", HERE / "sharded_rounds.py", output]
        done = subprocess.run(command, env=environment(devices), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(output) as saved:
            assert saved["devices"] == devices
            return {name: saved[name] for name in saved.files}

    return on


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("way", names())
def test_many_devices_compute_what_one_does(way, devices, outcomes):
    one, many = (outcomes(count)[way] for count in (1, devices))
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)


def test_each_device_has_its_own_clients_and_nobody_fills_up():
    mapper = sharding.Sharded(Mapper(vmapped=False), FakeMesh(4))
    numbers = mapper.deal(mapper.fill(np.arange(7), sharding.NOBODY))
    assert numbers.tolist() == [[0, 1], [2, 3], [4, 5], [6, sharding.NOBODY]]


class FakeMesh:
    """As many devices as one likes."""

    def __init__(self, size):
        self.size = size


def test_clients_are_copied_off_the_devices_in_their_order():
    mapper = sharding.Sharded(Mapper(vmapped=False), sharding.all_devices())
    rows = {"a": np.arange(len(CASE.held) * 2.0, dtype=np.float32).reshape(-1, 2)}
    members = mapper.load(rows, len(CASE.held))
    assert np.array_equal(mapper.unload(members, len(CASE.held))["a"], rows["a"])
    assert jax.tree.leaves(members)[0].shape == (jax.device_count(), 2)
