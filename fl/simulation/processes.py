"""One run by several processes, as on several hosts, through JAX's distributed runtime.

Each process runs the same program on devices of its own. The first one, the *leader*, alone writes
files and draws progress. Processes watch one another: when one ends before its time, all end.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PyTree = Any

# How many processes were launched together, in the words of SLURM's srun and of Open MPI.
LAUNCHED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Seconds without a sign of life after which a process counts as dead.
SILENCE_S = 20
# What processes say to one another: that they live, and, the leader, that it has done its part.
ALIVE, DONE = b".", b"!"


def launched() -> bool:
    """Whether SLURM or Open MPI started this process together with others."""
    return any(int(os.environ.get(name, 1)) > 1 for name in LAUNCHED)


def join(coordinator: str | None = None, count: int | None = None, number: int | None = None):
    """Join the other processes, before anything is computed.

    Args:
        coordinator: HOST:PORT of the leader; None to find all of this out of SLURM or Open MPI.
        count: how many processes there are.
        number: of this one, from 0.

    Raises:
        RuntimeError: if they do not come together.
    """
    given = {"cluster_detection_method": "deactivate"} if coordinator else {}
    jax.distributed.initialize(
        coordinator,
        count,
        number,
        heartbeat_timeout_seconds=2 * SILENCE_S,  # later, and without a sentence
        shutdown_timeout_seconds=SILENCE_S,
        **given,
    )
    _watch(coordinator.rsplit(":", 1)[0] if coordinator else socket.gethostname())


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def leads() -> bool:
    """Whether this process writes files and draws progress: the first one, or the only one."""
    return jax.process_index() == 0


def shared(make: Callable[[], bytes | None]) -> bytes | None:
    """What the leader makes, in every process.

    Args:
        make: called by the leader alone.
    """
    if not several():
        return make()
    made = make() if leads() else None
    size = multihost_utils.broadcast_one_to_all(np.int64(-1 if made is None else len(made)))
    if size < 0:
        return None
    data = np.frombuffer(made, np.uint8) if leads() else np.empty(int(size), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes()


def told(make: Callable[[], Any]) -> Any:
    """What the leader makes, in every process, as far as JSON can hold it; as `shared`."""
    if not several():
        return make()
    return json.loads(shared(lambda: json.dumps(make()).encode()))


def agree(decision: bool) -> bool:
    """The leader's decision."""
    return shared(lambda: b"1" if decision else None) is not None


def all_see(folder: Path) -> bool:
    """Whether each process sees what the leader writes to a folder, which is created.

    Args:
        folder: under that name in all of them.
    """
    probe = folder / told(lambda: f".{secrets.token_hex()}")
    if leads():
        with suppress(OSError):  # which it does not see then
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
    multihost_utils.sync_global_devices("probe")
    seen = multihost_utils.process_allgather(np.bool_(probe.exists()))
    if leads():
        probe.unlink(missing_ok=True)
    return bool(np.all(seen))


def by_leader(do: Callable[[], None]) -> None:
    """Let the leader alone do something, for as long as it takes, and the others wait for it."""
    if not leads():
        _leader_is_done.acquire()
        return
    do()
    for connection in _connections:
        with suppress(OSError):  # of which `_listen` hears too
            connection.sendall(DONE)


def to_host(tree: PyTree) -> PyTree:
    """Arrays on the host, whole in every process, also of what lies on the devices of others."""

    def whole(leaf):
        there = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if there or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def on_one_device(tree: PyTree) -> PyTree:
    """What all devices have in common, as one device of this process has it."""

    def own(leaf):
        spread = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
        return leaf.addressable_data(0) if spread and leaf.is_fully_replicated else leaf

    return jax.tree.map(own, tree)


def leave(status: int) -> None:
    """End this process's part in the run: with the others, or, after an error, without them.

    Args:
        status: with which the process exits; 0 where nothing went wrong.
    """
    if not several():
        return
    if status:
        sys.stdout.flush()
        os._exit(status)  # JAX would wait for the others
    multihost_utils.sync_global_devices("leave")
    _over.set()


def mourn() -> None:
    """Wait, after an error of the devices, for the news that another process has died.

    That is how a death may show first; the news end this process. Returns where there are none.
    """
    if several():
        time.sleep(1.5 * SILENCE_S)


_over = threading.Event()
_leader_is_done = threading.Semaphore(0)
_connections = []


def _end():
    message = (
        f"process {jax.process_index()}: another process of this run has ended, or no longer "
        "answers: stopped; the same commands go on from the last checkpoint"
    )
    print(message, file=sys.stderr, flush=True)
    os._exit(1)  # JAX would wait for the dead


def _watch(host):
    """Keep a connection to the leader, or of the leader to all: it breaks when an end dies."""
    if leads():
        _connections[:] = _accept(host, jax.process_count() - 1)
    else:
        word, port, host = shared(lambda: None).decode().split(" ", 2)
        _connections[:] = [socket.create_connection((host, int(port)), timeout=SILENCE_S)]
        _connections[0].sendall(word.encode())
    for connection in _connections:
        connection.settimeout(SILENCE_S)
        for task in (_beat, _listen):
            threading.Thread(target=task, args=(connection,), daemon=True).start()


def _accept(host, count):
    """Connections from so many processes, which know a word that strangers do not."""
    word, connections = secrets.token_hex(), []
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        shared(lambda: f"{word} {port} {host}".encode())
        while len(connections) < count:
            connection, _ = listener.accept()
            connection.settimeout(SILENCE_S)
            if connection.recv(len(word), socket.MSG_WAITALL) == word.encode():
                connections.append(connection)
    return connections


def _beat(connection):
    """Give signs of life."""
    with suppress(OSError):  # of which `_listen` hears too
        while not _over.wait(SILENCE_S / 6):
            connection.sendall(ALIVE)


def _listen(connection):
    """Hear what another process says, and wait for the end of its signs of life."""
    with suppress(OSError):
        while said := connection.recv(1):
            if said == DONE:
                _leader_is_done.release()
    if not _over.is_set():
        _end()
