"""Rounds spread over devices are those of one device."""

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from sharded_rounds import CASE, FEW, names

from fl.simulation import placing, sharding
from fl.simulation.mapping import Mapper
from fl.simulation.rounds import Cohort
from fl.simulation.training import Samples

HERE = Path(__file__).parent
# Four devices, as those of two processes.
TWO_OF_TWO = "two processes"
DEVICES = "--xla_force_host_platform_device_count="


def environment(devices):
    path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}{devices}"
    settings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return os.environ | settings | {"PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What comes of the rounds of `sharded_rounds`, by the number of devices."""
    folder = tmp_path_factory.mktemp("sharded")

    @cache
    def on(devices):
        output = folder / f"{devices}.npz"
        chosen = "all" if devices in (1, 2) else "few"
        command = [sys.executable, "-W", "error", HERE / "sharded_rounds.py", output, chosen]
        commands, own = [command], devices
        if devices == TWO_OF_TWO:
            where = f"127.0.0.1:{free_port()}"
            commands, own = [[*command, where, "2", number] for number in ("0", "1")], 2
        started = [
            subprocess.Popen(each, env=environment(own), stderr=subprocess.PIPE, text=True)
            for each in commands
        ]
        try:
            said = [each.communicate(timeout=600)[1] for each in started]
        except subprocess.TimeoutExpired:  # one that hangs fails this test, and no other's
            for each in started:
                each.kill()
                each.communicate()
            raise
        assert [each.returncode for each in started] == [0] * len(started), said
        with np.load(output) as saved:
            assert saved["devices"] == own * len(commands)
            return {name: saved[name] for name in saved.files}

    return on


def test_devices_that_work_on_one_round_take_up_the_next():
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        command = [sys.executable, HERE / "crowded_devices.py", "200"]
        subprocess.run(command, env=environment(2), check=True, timeout=120)
    finally:
        for each in busy:
            each.kill()
            each.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("devices", "way"),
    [
        *((2, way) for way in names()),
        *((devices, way) for devices in (4, TWO_OF_TWO) for way in names(FEW)),
    ],
)
def test_many_devices_compute_what_one_does(devices, way, outcomes):
    one, many = (outcomes(count)[way] for count in (1, devices))
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)


def test_minibatches_come_to_the_devices_of_their_clients():
    mesh, who = placing.all_devices(), np.tile(np.arange(3), (2, 1))
    minibatches = np.arange(24).reshape(2, 3, 2, 2)
    cohorts = placing.fill_cohorts(mesh, Cohort(who, minibatches, None, None))
    samples = Samples(np.arange(100, 124), np.arange(24), np.float32(5))
    own, placed = placing.bring(mesh, samples, cohorts)
    dealt = placed.indices.reshape(2, mesh.size, -1, 2, 2)
    found = [np.asarray(part.labels)[dealt[:, at]] for at, part in enumerate(own.parts)]
    assert np.array_equal(np.stack(found, 1).reshape(cohorts.indices.shape), cohorts.indices)
    assert [len(part.labels) for part in own.parts] == [dealt[:, 0].size] * mesh.size
    assert [float(part.scale) for part in own.parts] == [5] * mesh.size


def test_each_device_has_its_own_clients_and_nobody_fills_up():
    mesh = FakeMesh(4)
    numbers = placing.deal(mesh, placing.fill(mesh, np.arange(7), placing.NOBODY))
    assert numbers.tolist() == [[0, 1], [2, 3], [4, 5], [6, placing.NOBODY]]


class FakeMesh:
    """As many devices as one likes."""

    def __init__(self, size):
        self.size = size


def test_clients_are_copied_off_the_devices_in_their_order():
    mapper = sharding.Sharded(Mapper(vmapped=False), placing.all_devices())
    rows = {"a": np.arange(len(CASE.held) * 2.0, dtype=np.float32).reshape(-1, 2)}
    members = mapper.load(rows, len(CASE.held))
    assert np.array_equal(mapper.unload(members, len(CASE.held))["a"], rows["a"])
    each = placing.slots(mapper.mesh, len(CASE.held))
    assert [len(part) for part in members.parts] == [each] * jax.device_count()
    again = sharding.members_of(sharding.rows_of(members), members)
    assert np.array_equal(mapper.unload(again, len(CASE.held))["a"], rows["a"])
