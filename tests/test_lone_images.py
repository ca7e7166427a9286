"""Images that stand alone in a column of a gradient."""

import numpy as np
import pytest
from experiments import load

(lone_images,) = load("inversion", "lone_images")
ROUNDS, IMAGES, PIXELS, UNITS = 40, 3, 40, 9


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(rng):
    """Images of which every pixel is black in about half."""
    shown = rng.random((ROUNDS, IMAGES, PIXELS)) < 0.5
    return np.where(shown, rng.uniform(0.1, 1, shown.shape), 0)


def gradients(rng, images, gains):
    """Gradients of kernel and bias; units 0 and 1 know the first image alone, the others all."""
    deltas = rng.normal(size=(ROUNDS, IMAGES, UNITS))
    deltas[:, 1:, :2] = 0
    deltas[::2, 0, 1] = 0  # in every other round unit 1 knows none
    kernel = np.einsum("kip,kiu->kpu", images / gains, deltas)
    return np.concatenate([kernel, deltas.sum(1)[:, None]], axis=1)


def test_columns_of_one_image_are_found_and_no_others(rng, images):
    lone = lone_images.lone_columns(gradients(rng, images, np.ones(PIXELS))[:, :-1], images)
    expected = {(number, 0) for number in range(ROUNDS)}
    expected |= {(number, 1) for number in range(1, ROUNDS, 2)}
    assert set(zip(lone.round.tolist(), lone.unit.tolist(), strict=True)) == expected
    assert not lone.image.any()


def test_lone_images_are_exact_once_gains_are_known(rng, images):
    found = gradients(rng, images, rng.uniform(0.1, 10, PIXELS))
    lone = lone_images.lone_columns(found[:, :-1], images)
    decibels = lone_images.psnr_with_gains(found, images, lone, rng)
    assert len(decibels) == ROUNDS // 2
    assert decibels == pytest.approx(100)


def test_mixtures_are_not_taken_for_images(rng, images):
    mixed = np.einsum("kip,kiu->kpu", images, rng.normal(size=(ROUNDS, IMAGES, UNITS)))
    assert not len(lone_images.lone_columns(mixed, images).round)


def test_without_lone_images_there_are_no_scores(rng, images):
    mixed = rng.normal(size=(ROUNDS, PIXELS + 1, UNITS))
    lone = lone_images.lone_columns(mixed[:, :-1], images)
    assert not len(lone_images.psnr_with_gains(mixed, images, lone, rng))


REFUSED = {
    "": "argument --attack: needs adaptive, on secadam",
    "-m cnn1 -o secadam --attack adaptive": "argument -m/--model: the first layer of cnn1 is not",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_has_no_columns_of_images_is_refused(line, monkeypatch, capsys):
    monkeypatch.setattr(lone_images.sys, "argv", ["lone_images.py", *line.split()])
    with pytest.raises(SystemExit) as ended:
        lone_images.main()
    assert ended.value.code == 2
    assert REFUSED[line] in capsys.readouterr().err
