"""What to run: the options, and the runs that they stand for."""

import itertools
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from coding import COMMITTEE, MASKED
from runs import DEPARTURES, Overrides, Run
from secagg.graph import ALL, AUTO, LEAST_SECURITY_BITS, degree_of, leak_bound

from fl.data import partition
from fl.data.catalogue import DATASETS
from fl.data.sampling import cohort_size
from fl.experiment.departures import Departures, variant
from fl.experiment.options import choice, number, option
from fl.experiment.program import CommonOptions, as_published
from fl.experiment.startup import is_shared
from fl.simulation import algorithms
from fl.simulation.mapping import VMAP

# What --iid stands for where no alpha follows.
IID = float("inf")


def neighbours_number(text: str) -> str | int:
    """An argument type: auto, all, or an even number."""
    if text in (AUTO, ALL):
        return text
    if not text.isdecimal() or int(text) % 2:
        raise ArgumentTypeError(f"needs {AUTO}, {ALL} or an even number, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run. Options that take several values run every combination of them."""

    algorithm: tuple[str, ...] = option(
        ("fedavg",),
        "algorithms: " + ", ".join(algorithms.ALGORITHMS) + " (default: fedavg)",
        *("-a", "--aggregation"),
        nargs="+",
        type=choice(algorithms.ALGORITHMS, algorithms.ALIASES),
    )
    rounds: int = option(3000, "rounds of a run (default: 3000)", "-r", type=number(int, least=1))
    step_budget: int | None = option(
        None,
        "local steps of a run in all, instead of --rounds: rounds = budget / local steps",
        type=number(int, least=1),
    )
    local_steps: tuple[int, ...] = option(
        (1,),
        "local steps of a client in a round (default: 1)",
        *("-e", "--epochs"),
        nargs="+",
        type=number(int, least=1),
    )
    clients: int = option(
        10, "number of clients (default: 10)", "-n", "--num-clients", type=number(int, least=1)
    )
    batch_size: int = option(
        32, "samples in a minibatch (default: 32)", "-b", type=number(int, least=1)
    )
    partition: str = option(
        "lda",
        "who holds what: " + ", ".join(partition.PARTITIONS) + " (default: lda)",
        type=choice(partition.PARTITIONS),
    )
    alpha: tuple[float, ...] = option(
        (0.5,),
        "concentration of the lda partition (default: 0.5)",
        nargs="+",
        type=number(float, above=0),
    )
    iid: float | None = option(
        None,
        "published flag: the iid partition, or with a number the lda partition at that alpha",
        "-i",
        nargs="?",
        const=IID,
        metavar="ALPHA",
        type=number(float, above=0),
    )
    hardening: str | None = option(
        None, "of minibatches: pgd or none (default: pgd)", type=choice(("pgd", "none"))
    )
    efficient: bool = option(
        False, "leave the cryptography out and sum in the clear", action="store_true"
    )
    drop_out: float | None = option(
        None,
        "under secure aggregation, probability with which a client vanishes in a round, at a "
        "random stage (default: 0)",
        type=number(float, least=0),
    )
    neighbours: str | int | None = option(
        None,
        "under secure aggregation, with whom a client shares masks and secrets: all others, K of "
        "them (SecAgg+), or auto, as many as keep the odds of failing and leaking (default: all)",
        type=neighbours_number,
        metavar=f"{AUTO}|{ALL}|K",
    )
    insecure_neighbours: bool = option(
        False,
        "take --neighbours K even where a cheating server may well learn more than one sum a round",
        action="store_true",
    )
    ratio: str | None = option(
        None,
        "under secure aggregation, who forms SecAdam's ratio: a committee of clients, or the "
        "server out of masked moments (default: committee)",
        type=choice((COMMITTEE, MASKED)),
    )
    convergence: float | None = option(
        None,
        "stop at this test accuracy and count the rounds until then (default: the paper's)",
        nargs="?",
        const=0.0,
        metavar="ACCURACY",
        type=number(float, above=0),
    )
    evaluate_every: int | None = option(
        None,
        "rounds between evaluations (default: 100; 1 with --convergence)",
        type=number(int, least=1),
    )
    as_published: Departures = as_published(DEPARTURES)
    results: Path = option(
        Path(__file__).with_name("results.csv"),
        "file to append to (default: results.csv beside main.py)",
        type=Path,
    )


def check(options: Options, parser: ArgumentParser) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Raises:
        SystemExit: with status 2 and a sentence that names the option.
    """
    secure = [name for name in options.algorithm if is_secure(options, name)]
    promising = [name for name, build in algorithms.ALGORITHMS.items() if build().secure]
    for name in ("drop_out", "neighbours"):
        if getattr(options, name) is not None and not secure:
            parser.error(
                f"argument --{name.replace('_', '-')}: no run is under secure aggregation: choose "
                f"one of {', '.join(promising)}, without --efficient"
            )
    if options.drop_out is not None and options.drop_out >= 1:
        parser.error("argument --drop-out: a probability is below 1, or nobody would be left")
    if secure and cohort_size(options.participation, options.clients) < 2:
        parser.error(
            "argument -n/--num-clients: secure aggregation takes at least two clients in a round; "
            "a single one can only sum in the clear, with --efficient"
        )
    if secure and options.mapping == VMAP:
        parser.error(
            f"argument --mapping: {VMAP}: under secure aggregation messages leave compiled code: "
            f"choose another one, or sum in the clear, with --efficient"
        )
    if secure and is_shared(options):
        parser.error(
            "argument --coordinator: under secure aggregation one process plays all parties: sum "
            "in the clear, with --efficient"
        )
    _check_neighbours(options, parser)
    if options.ratio and not any(forms_ratio(options, name) for name in options.algorithm):
        parser.error("argument --ratio: no run forms a ratio under secure aggregation")
    if options.convergence is not None and options.convergence > 1:
        parser.error("argument --convergence: an accuracy is at most 1")
    for steps in options.local_steps:
        if options.step_budget is not None and steps > options.step_budget:
            parser.error(
                f"argument --step-budget: {options.step_budget} local steps in all are less than "
                f"one round of {steps}"
            )


def _check_neighbours(options, parser):
    """Refuse a K that cannot be, or that promises too little."""
    clients, asked = cohort_size(options.participation, options.clients), options.neighbours
    if not isinstance(asked, int):
        if options.insecure_neighbours:
            parser.error("argument --insecure-neighbours: it is about --neighbours K: give a K")
        return
    if not 2 <= asked < clients:
        parser.error(
            f"argument --neighbours: each of {clients} clients has 2 to {clients - 1} of them"
        )
    bound = min(leak_bound(clients, degree_of(clients, asked)), 1.0)
    if bound <= 2.0**-LEAST_SECURITY_BITS:
        return
    said = (
        f"with {asked} neighbours of {clients} clients, 10 % of which work with it, a cheating "
        f"server may learn more than one sum with a probability of up to {bound:.2g} a round"
    )
    if not options.insecure_neighbours:
        parser.error(
            f"argument --neighbours: {said}, above 2^-{LEAST_SECURITY_BITS}: choose {AUTO}, {ALL} "
            "or more, or say --insecure-neighbours"
        )
    print(f"argument --insecure-neighbours: {said}", file=sys.stderr)


def grid(options: Options) -> Iterator[Run]:
    """Every run that the options ask for."""
    partition_name, alphas = options.partition, options.alpha
    if options.iid is not None:
        partition_name, alphas = ("iid", [None]) if options.iid == IID else ("lda", [options.iid])
    if partition_name != "lda":
        alphas = [None]
    combinations = itertools.product(
        options.dataset,
        options.model,
        alphas,
        options.local_steps,
        options.algorithm,
        options.seed,
    )
    for dataset, model, alpha, local_steps, algorithm, seed in combinations:
        yield Run(
            dataset=dataset,
            model=model,
            clients=options.clients,
            algorithm=algorithm,
            alpha=alpha,
            local_steps=local_steps,
            rounds=options.step_budget // local_steps if options.step_budget else options.rounds,
            batch_size=options.batch_size,
            seed=seed,
            partition=partition_name,
            aggregation="protocol" if is_secure(options, algorithm) else "clear",
            ratio=(options.ratio or COMMITTEE) if forms_ratio(options, algorithm) else None,
            convergence=_threshold(options, dataset),
            variant=variant(options.as_published, DEPARTURES),
            departures=options.as_published,
            overrides=_overrides(options, algorithm),
        )


def is_secure(options: Options, algorithm: str) -> bool:
    """Whether an algorithm's runs are under secure aggregation."""
    return algorithms.ALGORITHMS[algorithm]().secure and not options.efficient


def forms_ratio(options: Options, algorithm: str) -> bool:
    """Whether an algorithm's runs form the ratio of moments under secure aggregation."""
    moments = algorithms.ALGORITHMS[algorithm]().sends == algorithms.MOMENTS
    return moments and is_secure(options, algorithm)


def _threshold(options, dataset):
    if options.convergence is None:
        return None
    return options.convergence or DATASETS[dataset].converged


def _overrides(options, algorithm):
    """What of the options changes the outcome of an algorithm's runs."""
    given = Overrides.of(options)
    if options.convergence is None:
        given = replace(given, evaluate_every=None)
    if not is_secure(options, algorithm):
        given = replace(given, drop_out=None, neighbours=None)
    return given
