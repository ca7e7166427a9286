"""What may not be asked for, said before anything is loaded."""

import itertools
from argparse import ArgumentParser

import classifier_metric
from attacks import ATTACKS
from options import AGGREGATES, OF_AGGREGATES, PICTURES, Options, attacks_on
from ratio_protection import NONE
from threat_model import PublicKnowledge

from fl.data.catalogue import DATASETS
from fl.experiment.startup import is_shared
from fl.simulation import algorithms, models


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
    _check_scaled_ratio(options, parser)
    _check_participation(options, parser)
    if options.converge is not None and options.converge > 1:
        parser.error("argument --converge: an accuracy is at most 1")
    if options.classifier_metric:
        for dataset in options.dataset:
            try:
                classifier_metric.check(DATASETS[dataset].image_shape)
            except ValueError as error:
                parser.error(f"argument --classifier-metric: {dataset}: {error}")


def check_attacks(options: Options, parser: ArgumentParser) -> None:
    """Refuse attacks that cannot take a model or what is sent; computes a little. As `check`."""
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
    if set(options.protect) != {NONE}:
        for name, sends in _sends(options).items():
            if sends != algorithms.MOMENTS:
                parser.error(f"argument --protect: is for ratios, and {name} sends {sends}")
        if False in watching:
            parser.error("argument --protect: is for attacks that watch several rounds")


def _check_dp(options, parser):
    if options.dp and options.dp_epsilon:
        parser.error("argument --dp-epsilon: finds the noise itself; not with --dp")
    if options.shared_noise and not options.dp:
        parser.error("argument --shared-noise: is of the noise of --dp")
    if options.dp and options.dp[0] == 0:
        parser.error("argument --dp: CLIP must be above 0, or no message would be left")
    if options.delta and not options.private:
        parser.error("argument --delta: is for --dp and --dp-epsilon")
    if options.delta and options.delta >= 1:
        parser.error("argument --delta: a probability is below 1")
    updates = algorithms.UPDATES in _sends(options).values()
    if options.dp_epsilon and options.as_published.dp_clip and updates:
        parser.error("argument --dp-epsilon: the published clip bounds no update; give --dp")
    if options.private and set(options.protect) != {NONE}:
        parser.error("argument --protect: not with --dp or --dp-epsilon, which change the moments")


def _check_scaled_ratio(options, parser):
    if not options.scaled_ratio:
        return
    for name, sends in _sends(options).items():
        if sends != algorithms.MOMENTS:
            parser.error(f"argument --scaled-ratio: is of SecAdam's ratio, not of {name}")
    if any(ATTACKS[name].watches for name in options.attack):
        parser.error("argument --scaled-ratio: is for attacks on a single round")


def _check_participation(options, parser):
    if options.participation is None:
        return
    if any(ATTACKS[name].watches for name in options.attack):
        parser.error(
            "argument --participation: attacks that watch several rounds follow every client "
            "through all of them"
        )
    if options.private:
        parser.error(
            "argument --participation: the noise of --dp and --dp-epsilon is reckoned for all "
            "clients in every round"
        )
    if options.as_published.stale_update:
        parser.error(
            "argument --participation: stale-update holds each client against its next minibatch"
        )


def _check_pictures(options, parser):
    drawn = [name for name in PICTURES if getattr(options, name)]
    if not drawn:
        return
    if is_shared(options):
        parser.error("argument --coordinator: pictures are drawn by a single process")
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


def _sends(options):
    """What the clients of each algorithm send, by its name."""
    return {name: algorithms.ALGORITHMS[name]().sends for name in options.algorithm}


def _flag(name):
    return f"--{name.replace('_', '-')}"
