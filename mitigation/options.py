"""What to run: the options, and the runs that they stand for."""

import argparse
import itertools
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import crfl
from attacks import ADVERSARY_SHARE, ATTACKS
from defences import CLIP, DEFENCES, HARDENING, check_clients, combine, of_kind, parts
from federation import tolerated
from hypotheses import HYPOTHESES
from runs import DEPARTURES, Overrides, Run

from fl.data.sampling import cohort_size
from fl.experiment.departures import Departures, variant
from fl.experiment.options import choice, number, option
from fl.experiment.program import CommonOptions, as_published
from fl.simulation import algorithms

ALGORITHMS = ("fedavg", "adam", "secadam")
# The box of PGD, and the radius to certify where there is none.
EPS = 0.1
# The radius that the published code certifies without `--eps`.
PUBLISHED_DELTA = 0.3


def defence_name(text: str) -> str:
    """An argument type: names of defences joined by +, to one name in a fixed order."""
    try:
        return combine(text.split("+"))
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
        "defences: "
        + ", ".join(("none", *DEFENCES))
        + "; several at once are joined by +, such as median+pgd (default: none). These look at "
        "single messages, which secure aggregation hides: "
        + ", ".join(name for name, entry in DEFENCES.items() if entry.needs_messages),
        nargs="+",
        type=defence_name,
    )
    noise_clip: bool = option(
        False, "published flag: noise_clip, on top of the other defences", action="store_true"
    )
    hardening: str = option(
        "none",
        f"published flag: none, {' or '.join(of_kind(HARDENING))}, on top of the other defences "
        "(default: none)",
        type=choice(("none", *of_kind(HARDENING))),
    )
    eps: tuple[float, ...] | None = option(
        None,
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
    clip_norm: float | None = option(
        None,
        f"L2 norm to which noise_clip scales the server's step down (default: {CLIP})",
        type=number(float, above=0),
    )
    hypothesis: str | None = option(
        None,
        "set options as a guess at what the paper ran has them: " + ", ".join(HYPOTHESES),
        type=choice(HYPOTHESES),
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
        f"noisy models that vote for a certificate (default: {crfl.MODELS})",
        type=number(int, least=1),
    )
    sigma: float | None = option(
        None,
        "standard deviation of the noise on the parameters of a smoothed model (default: "
        f"{crfl.SIGMA})",
        type=number(float, above=0),
    )
    error: float | None = option(
        None,
        f"probability with which each bound on the votes may be wrong (default: {crfl.ERROR})",
        type=number(float, above=0),
    )
    bound: str | None = option(
        None,
        "on the votes: " + ", ".join(crfl.BOUNDS) + " (default: hoeffding)",
        type=choice(crfl.BOUNDS),
    )
    scale_factor: float | None = option(
        None,
        "by which certificates take adversaries' uploads to be scaled (default: as they are)",
        type=number(float, above=0),
    )
    as_published: Departures = as_published(DEPARTURES)
    results: Path = option(
        Path(__file__).with_name("results.csv"),
        "file to append to (default: results.csv beside main.py)",
        type=Path,
    )


def resolve(options: Options, parser: ArgumentParser) -> Options:
    """Fill in what a hypothesis says, and translate the published flags.

    Raises:
        SystemExit: with status 2 and a sentence, if they contradict --defence.
    """
    if options.hypothesis:
        options = replace(options, **HYPOTHESES[options.hypothesis].options)
    more = [options.hardening, *(["noise_clip"] if options.noise_clip else [])]
    try:
        defences = tuple(combine([*name.split("+"), *more]) for name in options.defence)
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
    _check_participation(options, parser)
    for run in grid(options):
        if run.adversaries is not None and run.adversaries > run.clients:
            parser.error(
                f"argument --adversaries: {run.adversaries} of {run.clients} clients (-n) cannot "
                "attack"
            )
        if run.adversaries == 0:
            parser.error(
                f"argument -n/--num-clients: {ADVERSARY_SHARE:.0%} of {run.clients} clients, "
                "rounded, are none to attack: take more clients, or give --adversaries"
            )
        try:
            in_a_round = cohort_size(options.participation, run.clients)
            check_clients(run.defence, in_a_round, tolerated(run))
        except ValueError as error:
            parser.error(f"argument --defence: {error}, see --tolerated")


def _check_participation(options, parser):
    if options.participation is None:
        return
    for name in options.attack:
        if not ATTACKS[name].lasts and ATTACKS[name].adversaries:
            parser.error(
                f"argument --participation: the {ATTACKS[name].title.removeprefix('a ')} has a "
                "single round, in which its adversary may not be drawn"
            )
    for name in options.defence:
        for entry in parts(name):
            if entry.follows_clients:
                parser.error(
                    f"argument --participation: {entry.title} compares what all clients sent in "
                    "every round"
                )
    if options.delta is not None:
        parser.error(
            "argument --participation: certificates are about rounds of all clients: leave --delta "
            "out"
        )


def grid(options: Options) -> Iterator[Run]:
    """Every run that the options ask for."""
    combinations = itertools.product(
        *(options.dataset, options.model, options.algorithm, options.defence),
        *(options.seed, options.attack),
    )
    for dataset, model, algorithm, defence, seed, attack in combinations:
        clients = options.clients or (75 if model == "cnn2" else 100)
        takes_eps = any(entry.takes_eps for entry in parts(defence))
        for eps, delta in _boxes_and_radii(options, attack, takes_eps):
            yield Run(
                dataset=dataset,
                model=model,
                clients=clients,
                algorithm=algorithm,
                attack=attack,
                defence=defence,
                eps=eps,
                delta=delta,
                adversaries=_adversaries(options, attack, clients),
                seed=seed,
                rounds=options.rounds,
                start_round=options.start_round,
                local_steps=options.local_steps,
                batch_size=options.batch_size,
                alpha=options.alpha,
                partition="lda",
                variant=variant(options.as_published, DEPARTURES),
                departures=options.as_published,
                overrides=Overrides.of(options),
            )


def _boxes_and_radii(options, attack, takes_eps):
    """The eps and the delta of each of a defence's runs."""
    boxes = options.eps or (EPS,)
    pairs = [(eps, eps) for eps in boxes] if takes_eps else [(None, EPS)]
    if options.as_published.delta:
        radii = options.eps or (PUBLISHED_DELTA,)
        pairs = [(eps if takes_eps else None, own) for eps, own in zip(boxes, radii, strict=True)]
    # A certificate is about rounds of all clients.
    certifies = ATTACKS[attack].certifies and options.participation is None
    if options.delta is not None or not certifies:
        delta = options.delta if certifies else None
        pairs = dict.fromkeys((eps, delta) for eps, _ in pairs)
    return pairs


def _adversaries(options, attack, clients):
    default = ATTACKS[attack].adversaries
    if default is None:
        return None
    return default(clients) if options.adversaries is None else options.adversaries
