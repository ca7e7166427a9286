"""Rounds of which one device has twenty times the work of the other, none of them waited for.

    python crowded_devices.py ROUNDS

Run by the tests in a process of its own, with two devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fl.simulation.devices import compile_for_all, compile_for_each
from fl.simulation.placing import AXIS, all_devices, spread

SIDE = 200


def main(rounds):
    """Dispatch rounds as fast as it goes."""
    mesh = all_devices()

    def work(matrix, times):
        return lax.fori_loop(0, times, lambda _, matrix: jnp.tanh(matrix @ matrix), matrix)

    each = compile_for_each(mesh, work, common=(0,))
    meet = compile_for_all(mesh, lambda matrix: lax.psum(matrix, AXIS), common=())
    matrix, times = spread(mesh, np.ones((SIDE, SIDE), np.float32)), np.array([1, 20])
    for _ in range(rounds):
        matrix = meet(each(matrix, times))
    jax.block_until_ready(matrix)


if __name__ == "__main__":
    main(int(sys.argv[1]))
