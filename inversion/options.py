"""What to run: the options, and the runs that they stand for."""

import itertools
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import classifier_metric
from attacks import ATTACKS
from dp_guarantee import noise_for
from ratio_protection import NONE, PROTECTIONS, protection_name
from runs import Overrides, Run, algorithm_label
from threat_model import PublicKnowledge

from fl.data.catalogue import DATASETS
from fl.experiment.options import choice, number, option
from fl.experiment.program import CommonOptions
from fl.simulation import algorithms, models

ALGORITHMS = ("fedavg", "adam", "secadam")
BATCH_SIZE = 8
WINDOW = 100
# What --aggregates shows: the strongest attack on gradients; the paper's on ratios, and one that
# knows Adam.
AGGREGATES = {"fedavg": ("exact",), "secadam": ("representation", "adaptive")}
OF_AGGREGATES = tuple(itertools.chain(*AGGREGATES.values()))
PICTURES = ("gen_images", "aggregates", "gradcams")
DELTA = 1e-5


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run. Options that take several values run every combination of them."""

    model: tuple[str, ...] | None = option(
        None,
        "models: " + ", ".join(models.MODELS) + " (default: lenet)",
        "-m",
        nargs="+",
        type=choice(models.MODELS),
    )
    algorithm: tuple[str, ...] | None = option(
        None,
        "algorithms: " + ", ".join(ALGORITHMS) + " (default: fedavg)",
        *("-o", "--optimizer"),
        nargs="+",
        type=choice(ALGORITHMS, algorithms.ALIASES),
    )
    attack: tuple[str, ...] | None = option(
        None,
        "attacks: " + ", ".join(ATTACKS) + " (default: representation)",
        nargs="+",
        type=choice(ATTACKS),
    )
    idlg: bool = option(
        False, "published flag: the idlg attack, on minibatches of one", action="store_true"
    )
    dp: tuple[float, float] | None = option(
        None,
        "clip each client's message to the L2 norm CLIP, SecAdam's moments m and v / CLIP as one, "
        "and let each client add N(0, NOISE^2) to every entry",
        nargs=2,
        metavar=("CLIP", "NOISE"),
        type=number(float, least=0),
    )
    dp_epsilon: tuple[float, float] | None = option(
        None,
        "as --dp, with the noise that gives what the server sees of sums this client-level EPSILON",
        nargs=2,
        metavar=("CLIP", "EPSILON"),
        type=number(float, above=0),
    )
    delta: float | None = option(
        None,
        f"at which epsilon is stated, with --dp or --dp-epsilon (default: {DELTA:g})",
        type=number(float, above=0),
    )
    perturb: bool = option(
        False, "rotate every training image by up to 10 degrees", action="store_true"
    )
    window: int | None = option(
        None,
        f"rounds that an attack watches which watches several (default: {WINDOW})",
        type=number(int, least=1),
    )
    attack_round: tuple[int, ...] | None = option(
        None,
        "numbers of the rounds whose messages are attacked, or with which the window ends, all in "
        "one training (default: one more after the last; with a window the last)",
        nargs="+",
        metavar="ROUND",
        type=number(int, least=1),
    )
    attack_clients: int | None = option(
        None,
        "clients whose messages of a window are attacked (default: all; 0 for the aggregate alone)",
        type=number(int, least=0),
    )
    protect: tuple[str, ...] | None = option(
        None,
        "what is done to SecAdam's ratios before the server sees them: none, "
        + ", ".join(PROTECTIONS)
        + ", noise=DEVIATION (default: none)",
        nargs="+",
        metavar="HOW",
        type=protection_name,
    )
    local_steps: tuple[int, ...] = option(
        (1,),
        "local steps of a client in a round (default: 1)",
        nargs="+",
        type=number(int, least=1),
    )
    restarts: int = option(
        1,
        "random starts of an attack, of which its own loss chooses (default: 1)",
        type=number(int, least=1),
    )
    attack_steps: int | None = option(
        None, "steps of an attack at most (default: the attack's own)", type=number(int, least=1)
    )
    rounds: int = option(750, "rounds of training (default: 750)", "-r", type=number(int, least=1))
    converge: float | bool | None = option(
        None,
        "stop training at this test accuracy, without a number at the paper's for the data set and "
        "model (default: train all rounds)",
        nargs="?",
        const=True,
        metavar="ACCURACY",
        type=number(float, above=0),
    )
    clients: tuple[int, ...] | None = option(
        None,
        "numbers of clients (default: 100, 75 for cnn2)",
        *("-n", "--num-clients"),
        nargs="+",
        type=number(int, least=1),
    )
    batch_size: tuple[int, ...] | None = option(
        None,
        "samples in a minibatch (default: 8, 1 with --idlg)",
        "-b",
        nargs="+",
        type=number(int, least=1),
    )
    alpha: float = option(
        0.5, "concentration of the lda partition (default: 0.5)", type=number(float, above=0)
    )
    evaluate_every: int | None = option(
        None, "rounds between evaluations (default: 10)", type=number(int, least=1)
    )
    classifier_metric: bool = option(
        False,
        "score too how alike a separately trained classifier finds true and reconstructed images",
        action="store_true",
    )
    gen_images: bool = option(
        False,
        "instead of scores, draw true images beside their reconstructions, in figures/ beside the "
        "results (default: softmax, 10 clients, fedavg and secadam)",
        action="store_true",
    )
    aggregates: bool = option(
        False,
        "instead of scores, draw what attacks make of aggregates of ever more clients, in figures/ "
        "beside the results (default: lenet, 1, 2, 10 and 100 clients, batch size 1)",
        action="store_true",
    )
    gradcams: bool = option(
        False,
        "instead of attacks, draw Grad-CAM heat maps, in figures/ beside the results (default: "
        "cnn2, adam and secadam)",
        action="store_true",
    )
    results: Path = option(
        Path(__file__).with_name("results.csv"),
        "file to append to (default: results.csv beside main.py)",
        type=Path,
    )

    @property
    def private(self) -> bool:
        """Whether clients have differential privacy."""
        return bool(self.dp or self.dp_epsilon)


def resolve(options: Options) -> Options:
    """Fill in the defaults that depend on other options."""
    model, algorithm, clients, batch_size = ("lenet",), ("fedavg",), None, (BATCH_SIZE,)
    attack, attack_round, attack_clients = ("representation",), None, None
    if options.gen_images:
        model, algorithm, clients = ("softmax",), ("fedavg", "secadam"), (10,)
    if options.gradcams:
        model, algorithm = ("cnn2",), ("adam", "secadam")
    if options.aggregates:
        algorithm, attack = tuple(AGGREGATES), OF_AGGREGATES
        clients, batch_size = (1, 2, 10, 100), (1,)
        # The same minibatches, whether an attack watches one round or a window.
        attack_round, attack_clients = (options.rounds,), 0
    if options.idlg:
        attack, batch_size = ("idlg",), (1,)
    return replace(
        options,
        model=options.model or model,
        algorithm=options.algorithm or algorithm,
        attack=attack if options.idlg else options.attack or attack,
        attack_round=options.attack_round or attack_round,
        attack_clients=attack_clients if options.attack_clients is None else options.attack_clients,
        clients=options.clients or clients,
        batch_size=options.batch_size or batch_size,
        protect=options.protect or (NONE,),
        delta=options.delta or (DELTA if options.private else None),
    )


def attacks_on(algorithm: str, options: Options) -> tuple[str, ...]:
    """Attacks that are made on an algorithm."""
    return AGGREGATES[algorithm] if options.aggregates else options.attack


def check(options: Options, parser: ArgumentParser) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Args:
        options: from `resolve`.
        parser: which ends the program.

    Raises:
        SystemExit: with status 2 and a sentence that names the option.
    """
    if options.idlg and options.batch_size != (1,):
        parser.error(f"argument --idlg: needs a batch size of 1, got {options.batch_size[0]}")
    _check_pictures(options, parser)
    _check_windows(options, parser)
    _check_dp(options, parser)
    tasks = [
        (*task, attack)
        for task in itertools.product(options.dataset, options.model, options.algorithm)
        for attack in attacks_on(task[-1], options)
    ]
    for dataset, model, algorithm, attack in tasks:
        public = PublicKnowledge(
            models.MODELS[model](),
            DATASETS[dataset].image_shape,
            max(options.batch_size),
            algorithms.ALGORITHMS[algorithm](),
        )
        try:
            ATTACKS[attack].problem(public)
        except ValueError as error:
            parser.error(f"argument --attack: {error}")
    if options.converge is not None and options.converge > 1:
        parser.error("argument --converge: an accuracy is at most 1")
    if options.classifier_metric:
        for dataset in options.dataset:
            try:
                classifier_metric.check(DATASETS[dataset].image_shape)
            except ValueError as error:
                parser.error(f"argument --classifier-metric: {dataset}: {error}")


def _check_windows(options, parser):
    watching = {ATTACKS[name].watches for name in options.attack}
    if True not in watching:
        for name in ("window", "attack_clients"):
            if getattr(options, name) is not None:
                parser.error(
                    f"argument {_flag(name)}: is for attacks that watch several "
                    f"rounds: {', '.join(name for name in ATTACKS if ATTACKS[name].watches)}"
                )
    if False in watching and max(options.local_steps) > 1:
        parser.error(
            "argument --local-steps: attacks on a single step take 1; choose --attack adaptive"
        )
    rounds = options.attack_round or ()
    if options.converge is not None and (rounds or True in watching):
        parser.error(
            "argument --converge: the round of the attack would not be known; give --rounds"
        )
    if rounds and max(rounds) > options.rounds:
        parser.error(
            f"argument --attack-round: {max(rounds)} is beyond the {options.rounds} rounds of "
            "training"
        )
    if True in watching and (options.idlg or options.gen_images or options.classifier_metric):
        parser.error(
            "argument --attack: one that watches several rounds has rows alone, no pictures and no "
            "classifier metric"
        )
    sends = {name: algorithms.ALGORITHMS[name]().sends for name in options.algorithm}
    if set(options.protect) != {NONE}:
        for name in options.algorithm:
            if sends[name] != algorithms.MOMENTS:
                parser.error(f"argument --protect: is for ratios, and {name} sends {sends[name]}")
        if False in watching:
            parser.error("argument --protect: is for attacks that watch several rounds")


def _check_dp(options, parser):
    if options.dp and options.dp_epsilon:
        parser.error("argument --dp-epsilon: finds the noise itself; not with --dp")
    if options.dp and options.dp[0] == 0:
        parser.error("argument --dp: CLIP must be above 0, or no message would be left")
    if options.delta and not options.private:
        parser.error("argument --delta: is for --dp and --dp-epsilon")
    if options.delta and options.delta >= 1:
        parser.error("argument --delta: a probability is below 1")
    sends = {algorithms.ALGORITHMS[name]().sends for name in options.algorithm}
    if options.dp_epsilon and options.as_published and algorithms.UPDATES in sends:
        parser.error("argument --dp-epsilon: the published clip bounds no update; give --dp")
    if options.private and set(options.protect) != {NONE}:
        parser.error("argument --protect: not with --dp or --dp-epsilon, which change the moments")


def _check_pictures(options, parser):
    drawn = [name for name in PICTURES if getattr(options, name)]
    if not drawn:
        return
    if len(drawn) > 1:
        parser.error(f"argument {_flag(drawn[1])}: one kind of pictures at a time")
    single = ["batch_size", "local_steps", "protect", "attack_round"]
    if options.aggregates:
        if options.algorithm != tuple(AGGREGATES) or options.attack != OF_AGGREGATES:
            parser.error("argument --aggregates: has algorithms and attacks of its own")
    else:
        single += ["attack", "clients"]
    for name in single:
        if len(getattr(options, name) or ()) > 1:
            parser.error(f"argument {_flag(name)}: pictures take a single one")
    if options.gen_images and options.converge:
        parser.error(
            "argument --converge: not with --gen-images, which shows the same minibatch under each "
            "algorithm, after the same number of rounds: give --rounds"
        )
    if options.gradcams and {"softmax", "lenet"} & set(options.model):
        parser.error("argument --gradcams: needs a model with convolutions: cnn1 or cnn2")


def _flag(name):
    return f"--{name.replace('_', '-')}"


def grid(options: Options) -> Iterator[Run]:
    """Every run that the options, from `resolve`, ask for; those that share a training in a row."""
    trainings = itertools.product(
        options.dataset,
        options.model,
        options.algorithm,
        options.clients or (None,),
        options.batch_size,
        options.local_steps,
        options.protect,
        options.seed,
    )
    for dataset, model, algorithm, clients, batch_size, local_steps, protect, seed in trainings:
        converge = options.converge
        clients = clients or (75 if model == "cnn2" else 100)
        clip, noise = _clip_and_noise(options, clients)
        training = Run(
            dataset=dataset,
            model=model,
            clients=clients,
            algorithm=algorithm_label(algorithm, options.private, options.perturb),
            attack="",
            clip=clip,
            noise=noise,
            seed=seed,
            rounds=options.rounds,
            batch_size=batch_size,
            local_steps=local_steps,
            alpha=options.alpha,
            partition="lda",
            restarts=options.restarts,
            window=None,
            attack_round=None,
            protection=None if protect == NONE else protect,
            converge=DATASETS[dataset].trained[model] if converge is True else converge,
            variant=options.variant,
            overrides=Overrides.of(options),
        )
        for attack in attacks_on(algorithm, options):
            yield from _attacks(training, attack, options)


def _clip_and_noise(options, clients):
    if not options.dp_epsilon:
        return options.dp or (None, None)
    clip, epsilon = options.dp_epsilon
    one_more = not options.attack_round and not all(
        ATTACKS[name].watches for name in options.attack
    )
    rounds = options.rounds + one_more
    return clip, noise_for(epsilon, clip, clients, rounds, options.delta)


def _attacks(training, attack, options):
    """A training's runs of one attack: one for each round of the attack."""
    if ATTACKS[attack].watches:
        window = options.window or WINDOW
        for attack_round in options.attack_round or (options.rounds,):
            yield replace(training, attack=attack, window=window, attack_round=attack_round)
        return
    overrides = replace(training.overrides, attack_clients=None)
    for attack_round in options.attack_round or (None,):
        yield replace(training, attack=attack, attack_round=attack_round, overrides=overrides)
