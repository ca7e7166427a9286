"""What to run: the options, and the runs that they stand for."""

import argparse
import itertools
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import certificate
from backdoor import ADVERSARY_SHARE
from defence import AGGREGATORS, GUARDS, HARDENINGS, check_clients, combine, parts

from fl.experiment.options import choice, number, option
from fl.experiment.program import PGD_STEP_SHARE, CommonOptions
from fl.simulation import algorithms

ALGORITHMS = ("fedavg", "adam", "secadam")
ATTACKS = ("none", "continuous", "one_shot")
# Of SecAdam in this experiment, for clients and server.
SECADAM_RATE = 0.01
# Of PGD in the published code, restored by --as-published.
PUBLISHED_PGD_STEP = 1e-3
# The box of PGD, and the radius to certify where there is none.
EPS = 0.1
# Options that change a run and have no column of their own.
OVERRIDES = (
    *("pgd_step", "client_rate", "server_rate", "tolerated", "norm_bound"),
    *("smoothed_models", "sigma", "error", "bound"),
)


def defence_name(text: str) -> str:
    """An argument type: names of defences joined by +, to one name in a fixed order."""
    names = text.split("+")
    known = ("none", *AGGREGATORS, *GUARDS, *HARDENINGS)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"unknown {name!r}: choose from {', '.join(known)}")
    try:
        return combine(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run. Options that take several values run every combination of them."""

    algorithm: tuple[str, ...] = option(
        ("secadam",),
        "algorithms: " + ", ".join(ALGORITHMS) + " (default: secadam)",
        "-a",
        nargs="+",
        type=choice(ALGORITHMS, algorithms.ALIASES),
    )
    attack: tuple[str, ...] = option(
        ("continuous",),
        "attacks: " + ", ".join(ATTACKS) + " (default: continuous)",
        nargs="+",
        type=choice(ATTACKS, {"one-shot": "one_shot"}),
    )
    one_shot: bool = option(
        False, "published flag: the one_shot attack instead", action="store_true"
    )
    defence: tuple[str, ...] = option(
        ("none",),
        "what the server does: " + ", ".join(("none", *AGGREGATORS, *GUARDS)) + "; what clients "
        "do: " + ", ".join(HARDENINGS) + "; several at once are joined by +, such as "
        "median+pgd (default: none)",
        nargs="+",
        type=defence_name,
    )
    noise_clip: bool = option(
        False, "published flag: noise_clip, on top of the other defences", action="store_true"
    )
    hardening: str = option(
        "none",
        "published flag: none, pgd or flip, on top of the other defences (default: none)",
        type=choice(("none", *HARDENINGS)),
    )
    eps: tuple[float, ...] = option(
        (EPS,),
        f"half-width of the box around a sample in which pgd stays (default: {EPS})",
        nargs="+",
        type=number(float, least=0),
    )
    delta: float | None = option(
        None,
        "radius from which on a prediction counts as certified, in L2 distance of pixel "
        f"intensities (default: eps; {EPS} without pgd)",
        type=number(float, least=0),
    )
    start_round: int = option(
        2000, "rounds before the first that is attacked (default: 2000)", type=number(int, least=0)
    )
    adversaries: int | None = option(
        None,
        f"how many of the clients attack (default: {ADVERSARY_SHARE:.0%} of them, rounded; one "
        "with one_shot)".replace("%", "%%"),
        type=number(int, least=1),
    )
    tolerated: int | None = option(
        None,
        "adversaries that trimmed_mean and multi_krum are to withstand, whatever the attack "
        f"(default: {ADVERSARY_SHARE:.0%} of the clients, rounded)".replace("%", "%%"),
        type=number(int, least=0),
    )
    norm_bound: float | None = option(
        None,
        "L2 norm to which norm_bounding scales messages down (default: see README)",
        type=number(float, above=0),
    )
    rounds: int = option(3000, "rounds of a run (default: 3000)", "-r", type=number(int, least=1))
    local_steps: int = option(
        1, "local steps of a client in a round (default: 1)", "-e", type=number(int, least=1)
    )
    clients: int | None = option(
        None,
        "number of clients (default: 100, 75 for cnn2)",
        *("-n", "--num-clients"),
        type=number(int, least=1),
    )
    batch_size: int = option(
        32, "samples in a minibatch (default: 32)", "-b", type=number(int, least=1)
    )
    alpha: float = option(
        0.5, "concentration of the lda partition (default: 0.5)", type=number(float, above=0)
    )
    evaluate_every: int = option(
        50, "rounds between evaluations (default: 50)", type=number(int, least=1)
    )
    smoothed_models: int | None = option(
        None,
        f"noisy models that vote for a certificate (default: {certificate.MODELS})",
        type=number(int, least=1),
    )
    sigma: float | None = option(
        None,
        "standard deviation of the noise on the parameters of a smoothed model (default: "
        f"{certificate.SIGMA})",
        type=number(float, above=0),
    )
    error: float | None = option(
        None,
        "probability with which each bound on the votes may be wrong (default: "
        f"{certificate.ERROR})",
        type=number(float, above=0),
    )
    bound: str | None = option(
        None,
        "on the votes: " + ", ".join(certificate.BOUNDS) + " (default: hoeffding)",
        type=choice(certificate.BOUNDS),
    )
    results: Path = option(
        Path(__file__).with_name("results.csv"),
        "file to append to (default: results.csv beside main.py)",
        type=Path,
    )


def resolve(options: Options, parser: ArgumentParser) -> Options:
    """Translate the published flags.

    Raises:
        SystemExit: with status 2 and a sentence, if they contradict --defence.
    """
    more = [options.hardening, *(["noise_clip"] if options.noise_clip else [])]
    try:
        defences = tuple(combine([*parts(name), *more]) for name in options.defence)
    except ValueError as error:
        parser.error(f"argument --hardening: {error}")
    attacks = ("one_shot",) if options.one_shot else options.attack
    return replace(options, attack=attacks, defence=defences)


def check(options: Options, parser: ArgumentParser) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Raises:
        SystemExit: with status 2 and a sentence that names the option.
    """
    if options.start_round >= options.rounds:
        parser.error(
            f"argument --start-round: {options.start_round} rounds before the attack leave none to "
            f"attack of the {options.rounds} of --rounds"
        )
    if options.error is not None and options.error >= 1:
        parser.error("argument --error: a probability is below 1")
    for cell in grid(options):
        clients, adversaries = cell["clients"], cell["adversaries"]
        if adversaries is not None and adversaries > clients:
            parser.error(
                f"argument --adversaries: {adversaries} of {clients} clients (-n) cannot attack"
            )
        if adversaries == 0:
            parser.error(
                f"argument -n/--num-clients: {ADVERSARY_SHARE:.0%} of {clients} clients, rounded, "
                "are none to attack: take more clients, or give --adversaries"
            )
        try:
            check_clients(cell["defence"], clients, tolerated(options, clients))
        except ValueError as error:
            parser.error(f"argument --defence: {error}, see --tolerated")


def grid(options: Options) -> Iterator[dict]:
    """Every run that the options ask for, as the columns `schema.RUN` that identify it.

    Runs that have their rounds before the attack in common follow one another.
    """
    combinations = itertools.product(
        options.dataset,
        options.model,
        options.algorithm,
        options.defence,
        options.seed,
        options.attack,
    )
    for dataset, model, algorithm, defence, seed, attack in combinations:
        clients = options.clients or (75 if model == "cnn2" else 100)
        for eps in options.eps if "pgd" in parts(defence) else [None]:
            yield {
                "dataset": dataset,
                "model": model,
                "clients": clients,
                "algorithm": algorithm,
                "attack": attack,
                "defence": defence,
                "eps": eps,
                "delta": _delta(options, eps) if attack != "none" else None,
                "adversaries": _adversaries(options, attack, clients),
                "seed": seed,
                "rounds": options.rounds,
                "start_round": options.start_round,
                "local_steps": options.local_steps,
                "batch_size": options.batch_size,
                "alpha": options.alpha,
                "partition": "lda",
                "variant": options.variant,
                "overrides": options.overrides(OVERRIDES),
            }


def rates(options: Options, algorithm: str) -> dict[str, float]:
    """The learning rates of an algorithm in this experiment."""
    own = {"client_rate": SECADAM_RATE, "server_rate": SECADAM_RATE}
    return (own if algorithm == "secadam" else {}) | options.rates()


def pgd_step(options: Options, algorithm: str) -> float:
    """PGD's step in pixel intensity."""
    if options.pgd_step is not None:
        return options.pgd_step
    if options.as_published:
        return PUBLISHED_PGD_STEP
    own = algorithms.ALGORITHMS[algorithm](**rates(options, algorithm))
    return PGD_STEP_SHARE * own.client_rate


def training(options: Options, cell: dict) -> dict:
    """What of a cell its rounds depend on, the attacked ones too.

    A box of PGD that is wider than its single step binds nothing, and neither does eps in the
    published code: runs that differ in such an eps are the same until they are certified.
    """
    step = pgd_step(options, cell["algorithm"])
    binds = cell["eps"] is not None and cell["eps"] < step and not options.as_published
    return cell | {"eps": cell["eps"] if binds else None, "delta": None}


def before_attack(options: Options, cell: dict) -> dict:
    """What of a cell its rounds before the attack depend on."""
    afterwards = {"attack": None, "adversaries": None, "rounds": None}
    return training(options, cell) | afterwards


def tolerated(options: Options, clients: int) -> int:
    """How many adversaries the server expects at most."""
    return round(ADVERSARY_SHARE * clients) if options.tolerated is None else options.tolerated


def _delta(options, eps):
    if options.delta is not None:
        return options.delta
    return EPS if eps is None else eps


def _adversaries(options, attack, clients):
    if attack == "none":
        return None
    default = round(ADVERSARY_SHARE * clients) if attack == "continuous" else 1
    return default if options.adversaries is None else options.adversaries
