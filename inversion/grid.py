"""The runs that the options stand for."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

from attacks import ATTACKS
from dp_guarantee import noise_for
from options import WINDOW, Options, attacks_on
from ratio_protection import NONE
from runs import DEPARTURES, Overrides, Run, algorithm_label

from fl.data.catalogue import DATASETS
from fl.experiment.departures import variant


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
            variant=variant(options.as_published, DEPARTURES),
            departures=options.as_published,
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
