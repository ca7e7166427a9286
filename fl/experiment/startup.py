"""A program's process before it computes: mapping, other processes of the run, checkpoints."""

import hashlib
import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from fl.experiment.program import AUTO, CommonOptions
from fl.experiment.provenance import code
from fl.simulation import engine, keeping, mapping, processes

# The folder of checkpoints; None for one beside the results.
_checkpoints = [None]


def begin(options: CommonOptions, parser: ArgumentParser) -> None:
    """Set the process up for computing, before anything is computed.

    Args:
        options: of the program.
        parser: which ends it.

    Raises:
        SystemExit: with status 2 and a sentence that names the option.
    """
    engine.keep_compiled_code()
    engine.choose_mapping(None if options.mapping == AUTO else options.mapping)
    keeping.choose_checkpoint_rounds(options.checkpoint_every)
    _checkpoints[:] = [options.checkpoint]
    _join(options, parser)


def is_shared(options: CommonOptions) -> bool:
    """Whether several processes were asked to share the program's runs."""
    return options.coordinator is not None or processes.launched()


def _join(options, parser):
    """Join the other processes of the run, if there are any."""
    given = options.coordinator, options.processes, options.process
    if any(each is not None for each in given) and None in given:
        parser.error("argument --coordinator: goes with --processes and --process")
    if not is_shared(options) or options.plan or options.list:
        return
    if options.mapping not in (AUTO, mapping.SHARDED):
        parser.error("argument --mapping: several processes go with sharded")
    if given[0] and options.process >= options.processes:
        parser.error("argument --process: is from 0 to one below --processes")
    try:
        processes.join(*given)
    except (RuntimeError, ValueError, OSError) as error:
        parser.error(f"argument --coordinator: the processes did not come together: {error}")
    folder = _checkpoint_folder(options.results)
    if not processes.all_see(folder):
        processes.leave(0)  # all of them end here
        parser.error(
            f"argument --checkpoint: {folder} is to be a folder that all processes see, and that "
            "the first one can write to"
        )


def checkpoint_path(results_path: Path, run: Any, *further: Any) -> Path:
    """Where a run keeps its checkpoints: other code or other options find no match.

    Args:
        results_path: the results file, beside which they lie unless `begin` was told otherwise.
        run: an instance of an experiment's `Run`.
        further: what else the rounds depend on: dataclasses and what JSON can hold.
    """
    where = code(type(run)).digest, jax.__version__, *engine.placement()
    everything = [run, *further, *where]
    text = json.dumps(everything, default=asdict)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _checkpoint_folder(results_path) / name


def _checkpoint_folder(results_path):
    return _checkpoints[0] or results_path.parent / ".checkpoints"
