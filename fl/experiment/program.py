"""What the experiments' programs share: common options, and a grid that survives trouble."""

import sys
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import pandas as pd

from fl.data import catalogue, datasets, partition
from fl.experiment import results
from fl.experiment.departures import Departures, argument
from fl.experiment.estimate import about
from fl.experiment.options import choice, number, option
from fl.experiment.provenance import code
from fl.experiment.runs import cells
from fl.simulation import mapping, models, processes, training

# PGD's step as a share of the client's learning rate, in the paper.
PGD_STEP_SHARE = 0.01

# The mapping that is chosen by itself.
AUTO = "auto"

R = TypeVar("R")


def share(text: str) -> float | None:
    """An argument type: a fraction of a whole, None for all of it."""
    value = number(float, above=0, most=1)(text)
    return None if value == 1 else value


def address(text: str) -> str:
    """An argument type: a host and a port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ArgumentTypeError(f"needs HOST:PORT, got {text!r}")
    return text


@dataclass(frozen=True)
class CommonOptions:
    """Options of every experiment. Those that take several values run every combination."""

    dataset: tuple[str, ...] = option(
        ("digits",),
        "data sets: " + ", ".join(catalogue.DATASETS) + " (default: digits)",
        "-d",
        nargs="+",
        type=choice(catalogue.DATASETS, catalogue.aliases()),
    )
    model: tuple[str, ...] = option(
        ("lenet",),
        "models: " + ", ".join(models.MODELS) + " (default: lenet)",
        "-m",
        nargs="+",
        type=choice(models.MODELS),
    )
    seed: tuple[int, ...] = option(
        (0,), "numbers of the runs (default: 0)", "-s", nargs="+", type=number(int, least=0)
    )
    pgd_step: float | None = option(
        None,
        "step of PGD in pixel intensity (default: 1 %% of the client's learning rate)",
        type=number(float, least=0),
    )
    client_rate: float | None = option(
        None, "the clients' learning rate (default: the algorithm's)", type=number(float, above=0)
    )
    server_rate: float | None = option(
        None, "the server's learning rate (default: the algorithm's)", type=number(float, above=0)
    )
    participation: float | None = option(
        None,
        "fraction of the clients that take part in a round, drawn anew for each; the others keep "
        "what they have (default: all)",
        type=share,
        metavar="C",
    )
    skip_done: bool = option(
        False, "skip runs that the results file already holds", action="store_true"
    )
    plan: bool = option(
        False,
        "only say how many runs are left, and about how long they take; implies --skip-done",
        action="store_true",
    )
    list: bool = option(
        False,
        "only print a command line for each run that is left, or for those that share work",
        action="store_true",
    )
    mapping: str = option(
        AUTO,
        "how clients are computed: loop (a few at a time), vmap (side by side), sharded (spread "
        "over all devices), or auto, the fastest that can be (default: auto)",
        type=choice((AUTO, *mapping.MAPPINGS)),
    )
    coordinator: str | None = option(
        None,
        "share a run among processes: where the first of them can be reached; SLURM's srun and "
        "Open MPI's mpirun say so themselves",
        type=address,
        metavar="HOST:PORT",
    )
    processes: int | None = option(None, "how many there are", type=number(int, least=1))
    process: int | None = option(None, "number of this one, from 0", type=number(int, least=0))
    checkpoint: Path | None = option(
        None,
        "folder of checkpoints, one for all processes (default: .checkpoints beside the results)",
        type=Path,
        metavar="DIR",
    )
    checkpoint_every: int | None = option(
        None,
        "rounds between checkpoints (default: about a minute)",
        type=number(int, least=1),
        metavar="ROUNDS",
    )
    data_dir: Path | None = option(
        None, "where TensorFlow Datasets keeps data (default: its own)", type=Path
    )


def as_published(acting: Collection[str]) -> Any:
    """The option of that name of an experiment.

    Args:
        acting: ids of the departures of the published code that act there.
    """
    return option(
        Departures(),
        "restore what the published code does otherwise, or of that only: " + ", ".join(acting),
        nargs="?",
        const=Departures.of(acting),
        metavar="ID,ID",
        type=argument(acting),
    )


def run_grid(runs: Iterable[R], run_one: Callable[[R], None], describe: Callable[[R], str]) -> int:
    """Make the runs of a grid, one after the other.

    What stops one run is said at once, and the others go on; what would stop all of them, or what
    may stop one process of several, ends the grid. Several processes part at its end.

    Args:
        runs: what there is to run; each may stand for several that share their training.
        run_one: makes one of them and keeps what came of it.
        describe: says one of them in a few words.

    Returns:
        The exit status: 0; 1 if data or disk failed; 2 if a run cannot be made as asked; 130 if
        the user interrupted.
    """
    status = _run_all(runs, run_one, describe)
    processes.leave(status)
    return status


def _run_all(runs, run_one, describe):
    status = 0
    for run in runs:
        try:
            run_one(run)
        except datasets.DatasetUnavailableError as error:
            print(f"{describe(run)}: {error}", file=sys.stderr)
            status = 1
            if processes.several():  # the others may have the data
                return status
        except partition.PartitionError as error:
            print(
                f"{describe(run)}: arguments -n/--num-clients, --alpha, --partition: {error}",
                file=sys.stderr,
            )
            status = 2
        except (results.ResultsError, OSError) as error:
            print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
            return 1
        except jax.errors.JaxRuntimeError:
            processes.mourn()
            raise
        except KeyboardInterrupt:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
    return status


def skip_done(path: Path, runs: list[R], describe: Callable[[R], str]) -> list[R]:
    """Leave out the runs that a results file holds.

    Prints how many, what they come from, and how long those that are left may take.

    Args:
        path: the results file, which may be absent.
        runs: instances of an experiment's `Run`.
        describe: says a run in a few words.
    """
    return [runs[number] for number in processes.told(lambda: _left(path, runs, describe))]


def _left(path, runs, describe):
    """Numbers of the runs that are left."""
    held = results.read(path)
    if held.empty:
        print(f"left: {len(runs)} of {len(runs)} runs")
        return list(range(len(runs)))
    rows = [held[results.matches(held, cells(run))] for run in runs]
    numbers = [number for number, done in enumerate(rows) if done.empty]
    left = [runs[number] for number in numbers]
    if len(left) < len(runs):
        where = pd.concat(rows)[["hardware", "jax"]].drop_duplicates().itertuples(index=False)
        machines = "; ".join(f"{hardware}, jax {version}" for hardware, version in where)
        print(
            f"{len(runs) - len(left)} of {len(runs)} runs are already in {path}, measured on "
            f"{machines}: skipped"
        )
        _say_other_code(runs, rows, describe)
    if left:
        print(f"left: {len(left)} of {len(runs)} runs, {about(held, left, jax.default_backend())}")
    return numbers


def _say_other_code(runs, rows, describe):
    """Say which runs that are there were measured by other code than the present one."""
    present, others = code(type(runs[0])), defaultdict(list)
    for run, done in zip(runs, rows, strict=True):
        recorded = done["code"].fillna("not recorded")
        if len(done) and not recorded.str.startswith(present.digest).any():
            others[recorded.iloc[-1]].append(run)
    for other, measured in others.items():
        print(
            f"  {len(measured)} of these by other code ({other}) than the present ({present}), "
            f"such as {describe(measured[0])}"
        )
    if others:
        print("  to measure them anew: experiment.sh --fresh, or leave --skip-done out")


@lru_cache(maxsize=1)
def load(name: str, data_dir: Path | None) -> tuple[datasets.Dataset, training.Samples]:
    """Load a data set -> (arrays on the host, training samples on the device).

    Of several processes none has all of them on its devices: they stay on the host, and on its
    disk until they are used.
    """
    spread = processes.several()
    dataset = datasets.load(name, data_dir, mapped=spread)
    return dataset, training.training_samples(dataset, on_host=spread)


@lru_cache(maxsize=1)
def evaluator(
    name: str, data_dir: Path | None, model: str, without_last: int | None = None
) -> Callable:
    """Make params -> test accuracy.

    Args:
        name: of the data set.
        data_dir: as for `load`.
        model: a key of `models.MODELS`.
        without_last: see `evaluated`.
    """
    dataset, _ = load(name, data_dir)
    if without_last:
        last = evaluated(len(dataset.test_labels), without_last)
        dataset = dataset._replace(
            test_images=dataset.test_images[:last], test_labels=dataset.test_labels[:last]
        )
    return training.evaluator(models.MODELS[model](), dataset)


def evaluated(samples: int, without_last: int | None) -> int:
    """How many of some test samples are evaluated, the first ones.

    Args:
        samples: how many there are.
        without_last: the size of minibatches whose last one is left out, whatever its size, as the
            published code does; None to evaluate every sample.
    """
    return (samples - 1) // without_last * without_last if without_last else samples


def initial_params(model: str, samples: training.Samples, seed: int):
    """Parameters of a model before training, drawn from a run's seed."""
    example, _ = samples.take(np.arange(1))
    return models.MODELS[model]().init(jax.random.key(seed), example)
