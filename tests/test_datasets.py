"""Data sets, through TFDS's real builders on small files in the original formats."""

import dataclasses
import functools
import gzip
import http.server
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fl.data import __main__ as command_line
from fl.data import datasets, tfds_builders
from fl.data.catalogue import DATASETS, Bundled
from fl.simulation.models import CLASSES, MODELS

TRAIN, TEST = 40, 20
FASHION_MNIST_RAW = Path(
    os.environ.get("FL_FASHION_MNIST_RAW", "/usr/share/datasets/fashion-mnist")
)


def draw(name):
    """Draw random samples: {split: (images, labels)}, every class in each split."""
    rng = np.random.default_rng(sum(name.encode()))
    return {
        split: (
            rng.integers(0, 256, (count, *DATASETS[name].image_shape), dtype=np.uint8),
            rng.permutation(np.arange(count) % 10).astype(np.uint8),
        )
        for split, count in (("train", TRAIN), ("test", TEST))
    }


def write_fashion_mnist(folder, samples):
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = samples[split]
        header = struct.pack(">4i", 0x803, len(images), 28, 28)
        with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images.tobytes())
        with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 0x801, len(labels)) + labels.tobytes())


def write_cifar10(folder, samples):
    def records(images, labels):
        planes = images.transpose(0, 3, 1, 2)
        return b"".join(
            bytes([label]) + plane.tobytes() for label, plane in zip(labels, planes, strict=True)
        )

    images, labels = samples["train"]
    files = {
        f"data_batch_{part + 1}.bin": records(images[part::5], labels[part::5]) for part in range(5)
    }
    files["test_batch.bin"] = records(*samples["test"])
    files["batches.meta.txt"] = "".join(f"class {label}\n" for label in range(10)).encode()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for file_name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file_name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_svhn_cropped(folder, samples):
    from scipy.io import savemat

    for split, (images, labels) in samples.items():
        digits = np.where(labels == 0, 10, labels)[:, None]  # the digit 0 is class 10 there
        savemat(folder / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": digits})


WRITERS = {
    "fashion_mnist": write_fashion_mnist,
    "cifar10": write_cifar10,
    "svhn_cropped": write_svhn_cropped,
}


def by_content(images, labels):
    """Return samples sorted by content: TFDS stores them in an order of its own."""
    return sorted((i.tobytes(), int(label)) for i, label in zip(images, labels, strict=True))


def same(first, second):
    return first.name == second.name and all(
        np.array_equal(a, b) for a, b in zip(first[1:], second[1:], strict=True)
    )


def run_python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=900, **options
    )


@pytest.fixture(scope="module", autouse=True)
def _small_fashion_mnist():
    """Let TFDS's builder, which counts on 60,000 and 10,000 images, take a few."""
    from tensorflow_datasets.image_classification import mnist

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "_TRAIN_EXAMPLES", TRAIN)
        patch.setattr(mnist, "_TEST_EXAMPLES", TEST)
        yield


@pytest.fixture(scope="module", params=WRITERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def raw(name, tmp_path_factory):
    """A folder with the original files of one of the three."""
    folder = tmp_path_factory.mktemp("raw")
    WRITERS[name](folder, draw(name))
    return folder


@pytest.fixture(scope="module")
def prepared(name, raw, tmp_path_factory):
    """A data directory in which TFDS prepared one of the three."""
    data_dir = tmp_path_factory.mktemp("data")
    datasets.prepare(name, raw, data_dir, unchecked=True)
    return data_dir


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """CIFAR-10's original files, and a data directory in which TFDS prepared it."""
    folder, data_dir = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    write_cifar10(folder, draw("cifar10"))
    datasets.prepare("cifar10", folder, data_dir, unchecked=True)
    return folder, data_dir


@pytest.fixture
def data_dir(cifar, tmp_path):
    """A fresh copy of a data directory with CIFAR-10, not cached yet."""
    shutil.copytree(cifar[1], tmp_path / "copy", ignore=shutil.ignore_patterns("fl_cache"))
    return tmp_path / "copy"


@pytest.fixture
def offline(monkeypatch):
    """Have nothing answer where the original files are looked for."""
    monkeypatch.setenv("no_proxy", "*")
    for name in WRITERS:
        move_source(monkeypatch, name, "http://127.0.0.1:1/")


def move_source(monkeypatch, name, url):
    """Look for a data set's original files elsewhere."""
    entry = DATASETS[name]
    moved = dataclasses.replace(entry, source=entry.source._replace(url=url))
    monkeypatch.setitem(DATASETS, name, moved)


# Names and digits


@pytest.mark.parametrize(
    ("alias", "name"),
    [("mnist", "fashion_mnist"), ("fmnist", "fashion_mnist"), ("svhn", "svhn_cropped")],
)
def test_aliases(alias, name):
    assert datasets.canonical_name(alias) == datasets.canonical_name(name) == name


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"imagenet.*digits, fashion_mnist, cifar10, svhn_cropped"):
        datasets.load("imagenet")


def test_a_new_data_set_is_one_entry(monkeypatch, tmp_path, capsys):
    arrays = {f"{split}_images": np.zeros((3, 4, 5, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(3, dtype=np.int32) for split in ("train", "test")}
    entry = dataclasses.replace(
        DATASETS["digits"],
        source=Bundled("a package", lambda: arrays),
        classes=("cat", "dog", "eel"),
        image_shape=(4, 5, 1),
        aliases=("pets",),
    )
    monkeypatch.setitem(DATASETS, "animals", entry)
    assert datasets.load("pets").name == "animals"
    assert command_line.main(["list", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == [
        *("animals", "comes with a package"),
    ]
    wrong = dataclasses.replace(entry, image_shape=(5, 4, 1))
    monkeypatch.setitem(DATASETS, "animals", wrong)
    with pytest.raises(datasets.DatasetUnavailableError, match="not the images"):
        datasets.load("pets")


def test_what_is_known_about_data_sets_fits_together():
    names = [*DATASETS, *(alias for entry in DATASETS.values() for alias in entry.aliases)]
    assert len(names) == len(set(names)), "each name stands for one data set"
    for entry in DATASETS.values():
        assert len(entry.classes) == CLASSES
        assert set(entry.trained) == set(MODELS)
        assert all(0 < accuracy < 1 for accuracy in (entry.converged, *entry.trained.values()))


def test_accuracies_that_end_training_are_the_papers():
    known = {
        "fashion_mnist": (0.85, {"cnn1": 0.85, "cnn2": 0.85, "lenet": 0.8}),
        "cifar10": (0.6, {"cnn1": 0.5, "cnn2": 0.5, "lenet": 0.35}),
        "svhn_cropped": (0.7, {"cnn1": 0.8, "cnn2": 0.8, "lenet": 0.35}),
    }
    for name, (converged, trained) in known.items():
        entry = DATASETS[name]
        assert entry.converged == converged
        assert {model: entry.trained[model] for model in trained} == trained


def test_digits_are_scikit_learns_with_doubled_pixels():
    from sklearn.datasets import load_digits

    dataset = datasets.load("digits")
    assert (dataset.name, dataset.scale) == ("digits", 16.0)
    assert dataset.train_images.shape == (1437, 16, 16, 1)
    assert dataset.test_images.shape == (360, 16, 16, 1)
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32

    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert images.max() == 16
    for row in (0, 1):
        for column in (0, 1):
            quarter = images[:, row::2, column::2, 0]
            np.testing.assert_array_equal(quarter, load_digits().images)
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    np.testing.assert_array_equal(labels, load_digits().target)


# TFDS's builders


def test_every_sample_comes_back(name, prepared):
    dataset = datasets.load(name, prepared)
    assert (dataset.name, dataset.scale) == (name, 255.0)
    for split, (images, labels) in draw(name).items():
        got_images = getattr(dataset, f"{split}_images")
        got_labels = getattr(dataset, f"{split}_labels")
        assert (got_images.dtype, got_labels.dtype) == (np.uint8, np.int32)
        assert got_images.shape == images.shape
        assert by_content(got_images, got_labels) == by_content(images, labels)


def test_second_load_is_from_the_cache_and_in_the_same_order(name, prepared, monkeypatch):
    datasets.load(name, prepared)
    arrays = tfds_builders.read(name, prepared)
    monkeypatch.setattr(tfds_builders, "read", None)
    cached = datasets.load(name, prepared)
    assert os.listdir(prepared / "fl_cache") == [f"{name}.npz"]
    assert all(np.array_equal(getattr(cached, key), value) for key, value in arrays.items())


def test_order_is_the_same_in_every_preparation_and_format(cifar, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    raw_dir, first = cifar
    builder = tfds.builder
    monkeypatch.setattr(
        tfds, "builder", lambda *a, **kw: builder(*a, **kw | {"file_format": "tfrecord"})
    )
    datasets.prepare("cifar10", raw_dir, tmp_path, unchecked=True)
    assert list(tmp_path.glob("cifar10/*/*.tfrecord*"))
    assert same(datasets.load("cifar10", tmp_path), datasets.load("cifar10", first))


def test_download_takes_what_is_needed_and_is_quiet(tmp_path, monkeypatch, capfd):
    from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as svhn

    served = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            served.append(self.path)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            """Say nothing of a client that closes its connection early."""

    raw_dir = tmp_path / "raw"
    raw_dir.mkdir()
    write_svhn_cropped(raw_dir, draw("svhn_cropped"))
    handler = functools.partial(Handler, directory=raw_dir)
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        move_source(monkeypatch, "svhn_cropped", url)
        monkeypatch.setattr(svhn, "URL", url)
        monkeypatch.setenv("no_proxy", "*")
        dataset = datasets.load("svhn_cropped", tmp_path / "data")
        server.shutdown()
    assert set(served) == {"/train_32x32.mat", "/test_32x32.mat"}  # not the 1.3 GB of "extra"
    assert by_content(*dataset[1:3]) == by_content(*draw("svhn_cropped")["train"])
    output = capfd.readouterr()
    assert output.out == ""
    data_dir = tmp_path / "data"
    assert output.err == f"TFDS downloads svhn_cropped and prepares it in {data_dir}...\n"


def test_checksums_are_those_that_tfds_registered(tmp_path):
    import tensorflow_datasets as tfds

    for name in ("cifar10", "svhn_cropped"):  # Fashion-MNIST's are of the unpacked content
        source = DATASETS[name].source
        registered = tfds.builder(name, data_dir=tmp_path).url_infos
        for file_name, checksum in source.files.items():
            assert registered[source.url + file_name].checksum == checksum


# The cache


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:100_000] + bytes(1000) + content[101_000:],
        lambda content: b"PK\x03\x04 and then nothing of the kind",
        lambda content: b"",
    ],
    ids=["truncated", "zeros in the middle", "garbage", "empty"],
)
def test_damaged_cache_is_rebuilt(data_dir, damage, monkeypatch):
    intact = datasets.load("cifar10", data_dir)
    cache = data_dir / "fl_cache" / "cifar10.npz"
    content = cache.read_bytes()
    cache.write_bytes(damage(content))
    assert same(datasets.load("cifar10", data_dir), intact)
    monkeypatch.setattr(tfds_builders, "read", None)
    assert same(datasets.load("cifar10", data_dir), intact)


def test_mapped_arrays_are_those_of_the_cache(data_dir):
    read = datasets.load("cifar10", data_dir)
    mapped = datasets.load("cifar10", data_dir, mapped=True)
    assert same(mapped, read)
    assert not mapped.train_images.flags.writeable


def test_cache_of_something_else_is_rebuilt(data_dir):
    intact = datasets.load("cifar10", data_dir)
    cache = data_dir / "fl_cache" / "cifar10.npz"
    arrays = dict(np.load(cache))
    for wrong in (
        {"train_images": arrays["train_images"]},
        arrays | {"train_labels": arrays["train_labels"][1:]},
        arrays | {"test_labels": arrays["test_labels"] + 1},
        arrays | {"test_images": arrays["test_images"].astype(np.float32)},
        arrays | {"test_images": arrays["test_images"][:, 1:]},
    ):
        np.savez(cache, **wrong)
        assert same(datasets.load("cifar10", data_dir), intact)


def test_newly_prepared_data_replace_the_cache(data_dir, monkeypatch):
    datasets.load("cifar10", data_dir)
    later = time.time() + 10
    os.utime(next(data_dir.glob("cifar10/*/dataset_info.json")), (later, later))
    decoded = []
    read = tfds_builders.read
    monkeypatch.setattr(tfds_builders, "read", lambda *a: decoded.append(a) or read(*a))
    datasets.load("cifar10", data_dir)
    assert decoded


def test_killed_write_leaves_the_old_cache(data_dir, monkeypatch):
    dataset = datasets.load("cifar10", data_dir)
    cache = data_dir / "fl_cache" / "cifar10.npz"
    content = cache.read_bytes()

    def die(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", die)
    with pytest.raises(KeyboardInterrupt):
        datasets._write_cache(dataset, cache)
    assert cache.read_bytes() == content
    assert os.listdir(cache.parent) == [cache.name]


def test_unwritable_cache_is_a_warning(data_dir):
    (data_dir / "fl_cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cifar10 will be decoded each time"):
        dataset = datasets.load("cifar10", data_dir)
    assert len(dataset.train_labels) == TRAIN


def test_cache_alone_is_enough_without_tfds(data_dir, tmp_path):
    datasets.load("cifar10", data_dir)
    shutil.copytree(data_dir / "fl_cache", tmp_path / "carried" / "fl_cache")
    program = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['tensorflow', 'tensorflow_datasets', 'sklearn', 'jax'])\n"
        "from fl.data import datasets\n"
        "print(len(datasets.load('cifar10', sys.argv[1]).train_labels))\n"
    )
    result = run_python("-W", "error", "-c", program, tmp_path / "carried")
    assert (result.stdout, result.stderr) == (f"{TRAIN}\n", "")


def test_reading_needs_no_tensorflow_and_works_in_two_processes_at_once(data_dir):
    program = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *a: find(name, *a) if name != 'tensorflow' else None\n"
        "from fl.data import datasets\n"
        "print(datasets.load('cifar10', sys.argv[1]).train_labels.tolist())\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, data_dir]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    labels = datasets.load("cifar10", data_dir).train_labels.tolist()
    assert outputs == [(f"{labels}\n", "")] * 2
    assert os.listdir(data_dir / "fl_cache") == ["cifar10.npz"]


# What users get wrong


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", WRITERS)
def test_unavailable_data_say_what_to_do(name, tmp_path, capfd):
    started = time.perf_counter()
    with pytest.raises(datasets.DatasetUnavailableError) as caught:
        datasets.load(name, tmp_path / "no such folder")
    assert time.perf_counter() - started < 5  # TFDS would retry for minutes
    message = str(caught.value)
    assert f"python -m fl.data prepare {name} --raw DIR --data-dir" in message
    assert all(file_name in message for file_name in DATASETS[name].source.files)
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_command_line_prepares(cifar, tmp_path, capsys):
    command = ["prepare", "cifar", "--raw", str(cifar[0]), "--data-dir", str(tmp_path)]
    assert command_line.main([*command, "--unchecked"]) == 0
    output = capsys.readouterr()
    assert output.out == f"cifar10: 40 training and 20 test images in {tmp_path}\n"
    assert output.err == f"TFDS prepares cifar10 in {tmp_path}...\n"
    assert command_line.main([*command, "--unchecked"]) == 0
    assert "is prepared already: delete" in capsys.readouterr().out
    assert command_line.main(["list", "--data-dir", str(tmp_path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(DATASETS)
    assert lines["cifar10"] == f"cached in {tmp_path / 'fl_cache' / 'cifar10.npz'}"


def test_command_line_names_the_missing_file(tmp_path):
    result = run_python(
        "-m", "fl.data", "prepare", "mnist", "--raw", tmp_path, "--data-dir", tmp_path
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        f"error: {tmp_path} holds no file train-images-idx3-ubyte.gz. The original files of"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prepare", "imagenet", "--raw", "."], "no data set 'imagenet'"),
        (["prepare", "digits", "--raw", "."], "nothing to prepare"),
        (["prepare", "cifar10"], "--raw"),
        (["fetch", "cifar10"], "fetch"),
        ([], "command"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_other_files_than_the_originals_are_refused(name, raw, tmp_path):
    with pytest.raises(datasets.DatasetUnavailableError, match="is not the original file"):
        datasets.prepare(name, raw, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_damaged_files_leave_nothing_half_prepared(name, raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(datasets.DatasetUnavailableError, match="is not the original file"):
        datasets.prepare(name, tmp_path / "raw", tmp_path / "data")
    with pytest.raises(datasets.DatasetUnavailableError, match=f"TFDS could not prepare {name}"):
        datasets.prepare(name, tmp_path / "raw", tmp_path / "data", unchecked=True)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.suffix == ".json"]
    assert tfds_builders.prepared_dir(name, tmp_path / "data") is None


# The real thing


@pytest.mark.real_data
def test_real_fashion_mnist(tmp_path):
    if not FASHION_MNIST_RAW.is_dir():
        pytest.skip(
            f"no {FASHION_MNIST_RAW}: install dataset-fashion-mnist or set FL_FASHION_MNIST_RAW"
        )
    command = ["-m", "fl.data", "prepare", "fashion_mnist"]
    result = run_python(*command, "--raw", FASHION_MNIST_RAW, "--data-dir", tmp_path)
    assert result.returncode == 0
    assert result.stderr == f"TFDS prepares fashion_mnist in {tmp_path}...\n"

    timed = (
        "import sys, time\n"
        "started = time.perf_counter()\n"
        "from fl.data import datasets\n"
        "datasets.load('mnist', sys.argv[1])\n"
        "print(time.perf_counter() - started)\n"
    )
    assert float(run_python("-c", timed, tmp_path).stdout) < 1

    dataset = datasets.load("fashion_mnist", tmp_path)
    # The order in which the committed results' clients drew their samples.
    assert dataset.train_labels[:12].tolist() == [2, 1, 8, 4, 1, 9, 2, 2, 0, 2, 6, 9]
    assert dataset.test_labels[:12].tolist() == [4, 4, 9, 7, 5, 1, 0, 5, 7, 4, 0, 8]
    for split, prefix, count in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        with gzip.open(FASHION_MNIST_RAW / f"{prefix}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(count, 28, 28, 1)
        with gzip.open(FASHION_MNIST_RAW / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        got_images = getattr(dataset, f"{split}_images")
        got_labels = getattr(dataset, f"{split}_labels")
        assert got_images.shape == images.shape
        assert np.bincount(got_labels).tolist() == [count // 10] * 10
        assert by_content(got_images, got_labels) == by_content(images, labels)
