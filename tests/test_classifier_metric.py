"""The classifier metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load

from fl.data import datasets

(classifier,) = load("inversion", "classifier_metric")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(data_dir):
    return classifier.load("digits", data_dir, steps=20)


@pytest.fixture(scope="module")
def digits():
    dataset = datasets.load("digits")
    return dataset.test_images / np.float32(dataset.scale), dataset.test_labels


def test_layers_are_those_of_the_specification():
    for side in (16, 28):
        variables = jax.eval_shape(
            classifier.Network().init, jax.random.key(0), jnp.zeros((2, side, side, 1))
        )
        shapes = {key: jax.tree.map(jnp.shape, value) for key, value in variables.items()}
        kernels = [shapes["params"][f"Conv_{number}"]["kernel"] for number in range(4)]
        assert kernels == [(3, 3, 1, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64)]
        assert shapes["params"]["Dense_0"]["kernel"] == (64, 10)
        assert len(shapes["batch_stats"]) == 4


def test_it_learns(trained, digits):
    images, labels = digits
    assert (trained.outputs(images).argmax(-1) == labels).mean() > 0.5


def test_distances(trained, digits):
    images = digits[0][:6].reshape(2, 3, 16, 16, 1)
    same = trained.distance(images, images)
    assert same.shape == (2, 3)
    np.testing.assert_allclose(same, 0, atol=1e-9)
    noisy = np.clip(images + np.random.default_rng(0).normal(0, 0.02, images.shape), 0, 1)
    noise = np.random.default_rng(1).uniform(size=images.shape)
    assert trained.distance(images, noisy).mean() < trained.distance(images, noise).mean()
    a, b = trained.outputs(images[0, 0]), trained.outputs(noise[0, 0])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert trained.distance(images[0, 0], noise[0, 0]) == pytest.approx(1 - cosine, abs=1e-5)
    with pytest.raises(ValueError, match="different sizes"):
        trained.distance(images, images[0])


def test_it_is_trained_once(trained, data_dir, monkeypatch, digits):
    path = classifier.cache_path("digits", data_dir, 20, 0)
    assert [file.name for file in data_dir.rglob("*") if file.is_file()] == [path.name]
    classifier.load.cache_clear()
    calls = []
    monkeypatch.setattr(classifier, "train", lambda *args: calls.append(args) or trained.variables)
    again = classifier.load("digits", data_dir, steps=20)
    np.testing.assert_array_equal(again.outputs(digits[0]), trained.outputs(digits[0]))
    assert not calls
    classifier.load("digits", data_dir, steps=41)
    classifier.load("digits", data_dir, steps=20, seed=1)
    assert len(calls) == 2, "steps and seed are part of the key"
    for damage in (path.read_bytes()[:100], b"", b"\x80"):
        path.write_bytes(damage)
        classifier.load.cache_clear()
        classifier.load("digits", data_dir, steps=20)
    assert len(calls) == 5
    assert not list(data_dir.rglob("*.tmp"))
    classifier.load.cache_clear()


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(classifier, "train", lambda *args: trained.variables)
    (tmp_path / "fl_cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="trained each time"):
        classifier.load("digits", tmp_path, steps=7)
    classifier.load.cache_clear()


def test_each_sample_comes_once_before_any_comes_again():
    batches = np.concatenate(list(classifier._batches(1300, 4, np.random.default_rng(0))))
    assert [len(set(batches[:1024])), len(set(batches[1024:]))] == [1024, 1024]


def test_colour_images_are_refused():
    classifier.check((28, 28, 1))
    with pytest.raises(ValueError, match="grey images, not 3 channels"):
        classifier.check((32, 32, 3))
