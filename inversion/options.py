"""What to run: the options of the command line."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from attacks import ATTACKS
from hypotheses import HYPOTHESES
from ratio_protection import NONE, PROTECTIONS, protection_name
from runs import DEPARTURES

from fl.experiment.departures import Departures
from fl.experiment.options import choice, number, option
from fl.experiment.program import CommonOptions, as_published
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
    shared_noise: bool | None = option(
        None,
        "with --dp, let all clients of a round add the same noise, which protects nobody: a guess "
        "at what the paper ran",
        action="store_const",
        const=True,
    )
    scaled_ratio: bool | None = option(
        None,
        "show attacks SecAdam's ratio times the clients' learning rate, as plain Adam's clients "
        "send it, and do not tell them: a guess at what the paper ran",
        action="store_const",
        const=True,
    )
    hypothesis: str | None = option(
        None,
        "set options as a guess at what the paper ran has them: " + ", ".join(HYPOTHESES),
        type=choice(HYPOTHESES),
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
    as_published: Departures = as_published(DEPARTURES)
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
    """Fill in what a hypothesis says, and the defaults that depend on other options."""
    if options.hypothesis:
        options = replace(options, **HYPOTHESES[options.hypothesis].options)
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
