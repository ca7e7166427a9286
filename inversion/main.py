"""Gradient inversion: what could the server reconstruct? (The paper's section 6.1.)

Trains a federation, then attacks what the server would see of one more step: each client's
message, and the aggregate of all. Runs every combination of the data sets, models, algorithms,
seeds and attacks given, and appends a row for each to results.csv. Attacks on the same training
share it. A training that was interrupted goes on from its last checkpoint when the same command is
given again.
"""

import itertools
import sys
import time
from functools import lru_cache, partial

import jax
import numpy as np
from attacks import ATTACKS, reconstruct
from metrics import Images, score, score_aggregate
from observation import observe, observe_stale
from observed import Observed, PublicFacts
from schema import COLUMNS
from settings import Options, check, grid

from fl import (
    algorithms,
    augmentation,
    defences,
    hardening,
    models,
    partition,
    results,
    rounds,
    run,
    sampling,
    simulation,
    training,
)
from fl.experiment import (
    PGD_STEP_SHARE,
    checkpoint_path,
    evaluator,
    initial_params,
    load,
    run_grid,
    skip_done,
)
from fl.options import parse

# Largest angle of --perturb, in degrees.
PERTURBATION = 10.0
# What the published code does instead, restored by --as-published.
PUBLISHED_SECADAM = {"offset": 1e-8, "bias_correction": False}
PUBLISHED_PGD_STEP = {"fedavg": 1e-3, "adam": 1e-3, "secadam": 1e-5}
# Rounds between looks at whether training has converged.
EVALUATE_EVERY = 10


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    options, parser = parse(Options, __doc__)
    check(options, parser)
    try:
        results.check(options.results, COLUMNS)
    except results.ResultsError as error:
        parser.error(f"argument --results: {error}")
    cells = list(grid(options))
    if options.skip_done:
        cells = skip_done(options.results, cells)
    simulation.keep_compiled_code()
    trainings = [list(same) for _, same in itertools.groupby(cells, _training)]
    return run_grid(trainings, partial(run_training, options), lambda same: describe(same[0]))


def _training(cell):
    """What of a cell matters to its training."""
    return {name: value for name, value in cell.items() if name not in ("attack", "restarts")}


def run_training(options, cells):
    """Train once, and make each of the attacks asked for on what the server would see."""
    cell = cells[0]
    seed = sampling.run_seed(cell["seed"])
    dataset, samples = load(cell["dataset"], options.data_dir)
    parts = partition.latent_dirichlet(
        dataset.train_labels, cell["clients"], np.random.default_rng(seed), cell["alpha"]
    )
    # In this experiment every client draws with a seed of its own.
    seeds = [seed + client for client in range(len(parts))]
    sampler = sampling.MinibatchSampler(parts, cell["batch_size"], seeds)
    todo = work(options, cell["model"], _algorithm(cell))
    federation = simulation.start(
        todo,
        initial_params(cell["model"], samples, seed),
        samples,
        sampler.weights,
        local_steps=1,
        keep_clients=True,  # an attack on a client looks at its own moments
        seed=seed,
    )
    plan = run.Plan(
        cell["rounds"], 1, options.evaluate_every or EVALUATE_EVERY, target=cell["converge"]
    )
    saved = checkpoint_path(options.results, _training(cell), plan)
    without_last = cell["batch_size"] if options.as_published else None
    accuracy = evaluator(cell["dataset"], options.data_dir, cell["model"], without_last)
    outcome = run.train(federation, sampler, accuracy, plan, saved, describe(cell))
    if outcome.diverged:
        for cell in cells:
            record(options.results, cell, outcome, {})
        saved.unlink(missing_ok=True)
        return

    observation, truth = _observe(options, cell, todo, outcome.state, samples, sampler)
    facts = PublicFacts(
        model=models.MODELS[cell["model"]](),
        image_shape=samples.images.shape[1:],
        batch=cell["batch_size"],
        algorithm=_algorithm(cell),
        client_rate=todo.algorithm.client_rate,
    )
    for cell in cells:
        began = time.perf_counter()
        scores = attack(options, cell, observation, truth, facts, jax.random.key(seed))
        scores["attack_s"] = round(time.perf_counter() - began, 2)
        record(options.results, cell, outcome, scores)
    saved.unlink(missing_ok=True)


def _algorithm(cell):
    """Canonical name of a cell's algorithm, without what is done to its messages and images."""
    return cell["algorithm"].removeprefix("dp_").removesuffix("_perturbed")


@lru_cache
def work(options, model, name):
    """Say what clients and server compute in training."""
    published = options.as_published
    settings = PUBLISHED_SECADAM if published and name == "secadam" else {}
    algorithm = algorithms.ALGORITHMS[name](**options.rates(), **settings)
    losses = training.sample_losses(models.MODELS[model]())
    step = PUBLISHED_PGD_STEP[name] if published else PGD_STEP_SHARE * algorithm.client_rate
    if options.pgd_step is not None:
        step = options.pgd_step
    return rounds.Work(
        algorithm,
        losses,
        hardening.pgd(losses, step),
        augment=augmentation.random_rotation(PERTURBATION) if options.perturb else None,
        privatise=defences.privatiser(*options.dp, published) if options.dp else None,
    )


def _observe(options, cell, todo, state, samples, sampler):
    indices = sampler.draw(1, 1).indices[0, :, 0]
    seen = todo, state, samples, indices
    if options.as_published and _algorithm(cell) != "secadam":
        later = sampler.draw(1, 1).indices[0, :, 0]
        return observe_stale(*seen, later, sampler.weights)
    return observe(*seen, sampler.weights)


def attack(options, cell, observation, truth, facts, key):
    """Attack every client and the aggregate, and score what comes of it -> columns."""
    client_key, global_key = jax.random.split(key)

    def build(facts):
        problem = ATTACKS[cell["attack"]]
        if cell["attack"] == "idlg":
            problem = partial(problem, as_published=options.as_published)
        problem = problem(facts)
        # The analytic attack takes none.
        steps = min(problem.steps, options.attack_steps or problem.steps)
        return problem._replace(steps=steps)

    found = reconstruct(
        build,
        Observed(observation.clients, observation.params, facts),
        client_key,
        cell["restarts"],
        bar_label=f"{cell['attack']}, {len(truth.labels)} clients",
    )
    # Of the aggregate, one image of each class is looked for.
    aggregate = jax.tree.map(lambda leaf: leaf[None], observation.aggregate)
    whole = reconstruct(
        build,
        Observed(aggregate, observation.params, facts._replace(batch=models.CLASSES)),
        global_key,
        cell["restarts"],
        bar_label=f"{cell['attack']}, aggregate",
    )
    scores = score(_images(found), Images(*truth), options.as_published)
    of_all = score_aggregate(_first(_images(whole)), Images(*truth), options.as_published)
    return scores._asdict() | {f"global_{name}": value for name, value in of_all._asdict().items()}


def _images(reconstruction):
    present = np.ones(reconstruction.labels.shape, bool)
    return Images(reconstruction.images, reconstruction.labels, present)


def _first(images):
    return Images(*(field[0] for field in images))


def record(path, cell, outcome, scores):
    """Append a run to the results, and print a line."""
    final = outcome.history[-1].accuracy if outcome.history and not outcome.diverged else None
    row = {
        **cell,
        **scores,
        "final_accuracy": final,
        "rounds_run": outcome.history[-1].round if outcome.history else None,
        "status": "diverged" if outcome.diverged else "ok",
        "train_s": round(outcome.wall_s, 2),
        **results.provenance(),
    }
    results.append(path, [row], COLUMNS)
    if outcome.diverged:
        print(f"{describe(cell)}: diverged, recorded as such")
        return
    print(
        f"{describe(cell)}: accuracy {final:.4f}; {cell['attack']} attack: "
        f"PSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f}, cosine {scores['cosine']:.3f}; "
        f"of the aggregate: PSNR {scores['global_psnr']:.2f} dB; "
        f"{scores['labels_recovered']:.0%} of the labels"
    )


def describe(cell):
    """A training in a few words."""
    privacy = f" C={cell['clip']:g} sigma={cell['noise']:g}" if cell["clip"] else ""
    names = (cell["dataset"], cell["model"], cell["algorithm"] + privacy)
    return f"{' '.join(names)}, seed {cell['seed']}"


if __name__ == "__main__":
    sys.exit(main())
