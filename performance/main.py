"""Federated training under six algorithms (the paper's section 6.2).

Runs every combination of the data sets, models, algorithms, alphas, local steps and seeds given,
and appends a row for each to results.csv and its evaluations to results.history.csv. A run that
was interrupted goes on from its last checkpoint when the same command is given again.
"""

import sys
from functools import lru_cache, partial

import numpy as np
from protocol import Protocol, Settings
from schema import COLUMNS, HISTORY_COLUMNS
from secagg.graph import ALL
from settings import Options, check, grid

from fl.data import partition, sampling
from fl.experiment import results
from fl.experiment.options import parse
from fl.experiment.program import (
    PGD_STEP_SHARE,
    checkpoint_path,
    evaluator,
    initial_params,
    load,
    run_grid,
    skip_done,
)
from fl.simulation import algorithms, engine, models, pgd, rounds, run, training

# What the published code does instead, restored by --as-published.
PUBLISHED_OFFSET = 1e-9
PUBLISHED_PGD_STEP = {False: 1e-3, True: 1e-6}  # by whether the algorithm is a SecAdam
# Columns that count what secure aggregation lost, and what to call it.
LOST = {"clipped": "entries clipped", "dropped": "drop-outs", "abandoned": "rounds abandoned"}


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    check(options, parser)
    history = results.history_path(options.results)
    try:
        results.check(options.results, COLUMNS)
        results.check(history, HISTORY_COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    cells = list(grid(options))
    if options.skip_done:
        cells = skip_done(options.results, cells, describe)
    engine.keep_compiled_code()
    return run_grid(cells, partial(run_cell, options), describe)


def run_cell(options, cell):
    """Run one cell of the grid, append what came of it, and print a line."""
    seed = sampling.run_seed(cell["seed"])
    dataset, samples = load(cell["dataset"], options.data_dir)
    parts = partition.PARTITIONS[cell["partition"]](
        dataset.train_labels,
        cell["clients"],
        np.random.default_rng(seed),
        **({"alpha": cell["alpha"]} if cell["alpha"] else {}),
    )
    # In this experiment all clients draw with generators of the same seed.
    sampler = sampling.MinibatchSampler(parts, cell["batch_size"], [seed] * len(parts))
    params = initial_params(cell["model"], samples, seed)
    todo = work(options, cell["model"], cell["algorithm"], cell["local_steps"])
    secure = None
    if cell["aggregation"] == "protocol":
        neighbours, drop_out = options.neighbours or ALL, options.drop_out or 0.0
        secure = Protocol(Settings(cell["clients"], neighbours, drop_out, seed))
        todo = todo._replace(aggregator=secure.aggregator())
    federation = engine.start(
        todo,
        params,
        samples,
        sampler.weights.shape,
        cell["local_steps"],
    )
    plan = run.Plan(
        rounds=cell["rounds"],
        local_steps=cell["local_steps"],
        evaluate_every=options.evaluate_every or (1 if cell["convergence"] else 100),
    )
    label, target = describe(cell), cell["convergence"]
    without_last = cell["batch_size"] if options.as_published else None
    accuracy = evaluator(cell["dataset"], options.data_dir, cell["model"], without_last)
    saved = checkpoint_path(options.results, cell, plan)
    outcome = run.train(
        *(federation, sampler, {"accuracy": accuracy}, plan, run.until_accuracy(target)),
        *(saved, label),
    )
    rounds_run = int(outcome.state.memory[0]) if secure else 0
    row = record(options.results, cell, outcome, secure.summary(rounds_run) if secure else {})
    announce(cell, row)
    saved.unlink(missing_ok=True)


@lru_cache
def work(options, model_name, algorithm_name, local_steps):
    """Say what clients and server compute: the algorithm, the loss and the hardening."""
    is_secadam = algorithm_name.startswith("secadam")
    settings = options.rates()
    if is_secadam and options.as_published:
        settings["offset"] = PUBLISHED_OFFSET
    if algorithm_name == "secadam_fedadam":
        settings["local_steps"] = local_steps
    algorithm = algorithms.ALGORITHMS[algorithm_name](**settings)
    losses = training.sample_losses(models.MODELS[model_name]())
    if options.hardening == "none":
        return rounds.Work(algorithm, losses, pgd.none())
    step = PGD_STEP_SHARE * algorithm.client_rate
    if options.as_published:
        step = PUBLISHED_PGD_STEP[is_secadam]
    if options.pgd_step is not None:
        step = options.pgd_step
    return rounds.Work(algorithm, losses, pgd.pgd(losses, step))


def record(path, cell, outcome, protocol):
    """Append a run to the results, after its evaluations to the history -> its row."""
    provenance = results.provenance()
    evaluations = [
        {
            **cell,
            "round": evaluation.round,
            **evaluation.scores,
            "loss": evaluation.loss,
            "date": provenance["date"],
        }
        for evaluation in outcome.history
    ]
    results.append(results.history_path(path), evaluations, HISTORY_COLUMNS)
    final = None
    if outcome.history and not outcome.diverged:
        final = outcome.history[-1].scores["accuracy"]
    row = {
        **cell,
        "final_accuracy": final,
        "rounds_to_convergence": outcome.stopped,
        "status": "diverged" if outcome.diverged else "ok",
        "start_s": round(outcome.start_s, 2),
        "wall_s": round(outcome.wall_s, 2),
        "rounds_per_s": outcome.rounds_per_s and round(outcome.rounds_per_s, 2),
        **protocol,
        **provenance,
    }
    results.append(path, [row], COLUMNS)
    return row


def announce(cell, row):
    """Print a line of what came of a run, and of what secure aggregation lost."""
    if row["status"] == "diverged":
        came = "diverged, recorded as such"
    elif row["rounds_to_convergence"]:
        came = f"accuracy {row['final_accuracy']:.4f} after {row['rounds_to_convergence']} rounds"
    else:
        came = f"final accuracy {row['final_accuracy']:.4f}"
    lost = [f"{row[name]:,} {what}" for name, what in LOST.items() if row.get(name)]
    print("; ".join([f"{describe(cell)}: {came}", *lost]))


def describe(cell):
    """A run in a few words."""
    shared = cell["partition"] + (f" {cell['alpha']}" if cell["alpha"] else "")
    steps = f"{cell['local_steps']} local step" + ("s" if cell["local_steps"] > 1 else "")
    names = (cell["dataset"], cell["model"], cell["algorithm"], shared, steps)
    return f"{' '.join(names)}, seed {cell['seed']}"


if __name__ == "__main__":
    sys.exit(main())
