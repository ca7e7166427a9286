"""TFDS's own builders, fed from a local folder or from the network, and read back as arrays.

Everything that needs TensorFlow Datasets is here and imported where it is used: `datasets` comes
here only when it has no cached arrays.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import logging
import os
import re
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from fl.data.catalogue import DATASETS

PROBE_SECONDS = 10
SPLITS = ("train", "test")


class DatasetUnavailableError(RuntimeError):
    """A data set is neither here nor to be had; the message says what to do."""


def prepared_dir(name: str, data_dir: Path) -> Path | None:
    """Return TFDS's folder of a prepared data set, the newest version's, or None.

    Args:
      name: canonical name of a TFDS data set.
      data_dir: TFDS's data directory.
    """
    versions = [
        path.parent
        for path in (data_dir / name).glob("*/dataset_info.json")
        # A folder that is still being written is called `3.0.1.incomplete...`.
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepare(name: str, raw_dir: Path, data_dir: Path, unchecked: bool = False) -> None:
    """Let TFDS prepare a data set from its original files in a local folder.

    Args:
      name: canonical name of a TFDS data set.
      raw_dir: folder that holds the original files.
      data_dir: TFDS's data directory, made if missing. What is prepared in it already stays.
      unchecked: accept files that differ from the originals.

    Raises:
      DatasetUnavailableError: a file is missing or not the original, or TFDS fails.
    """
    _check_raw_files(name, raw_dir, unchecked)
    print(f"TFDS prepares {name} in {data_dir}...", file=sys.stderr)
    # TFDS would keep, and later reuse, what it unpacks under the archive's name alone.
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as unpacked:
        _build(name, data_dir, raw_dir, unpacked)


def download(name: str, data_dir: Path) -> None:
    """Let TFDS download and prepare a data set.

    Args:
      name: canonical name of a TFDS data set.
      data_dir: TFDS's data directory, made if missing.

    Raises:
      DatasetUnavailableError: the files' host cannot be reached, or TFDS fails.
    """
    _probe(name)
    print(f"TFDS downloads {name} and prepares it in {data_dir}...", file=sys.stderr)
    _build(name, data_dir)


def read(name: str, data_dir: Path) -> dict[str, np.ndarray]:
    """Decode a prepared data set, in the order in which TFDS stored it.

    Args:
      name: canonical name of a TFDS data set that is prepared.
      data_dir: TFDS's data directory.

    Returns:
      `train_images`, `test_images`: uint8 [samples, height, width, channels];
      `train_labels`, `test_labels`: int32 [samples].

    Raises:
      DatasetUnavailableError: TFDS cannot read the folder.
    """
    folder = prepared_dir(name, data_dir)
    arrays = {}
    with _explained(f"TFDS could not read {folder}"):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(folder)
        if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            _import_tensorflow()
        with _quiet():
            for split in SPLITS:
                images, labels = _decode(builder, split)
                arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return arrays


def _decode(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split into memory."""
    samples = builder.info.splits[split].num_examples
    images = np.empty((samples, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(samples, np.int32)
    for index, sample in enumerate(_samples(builder, split)):
        images[index], labels[index] = sample["image"], sample["label"]
    return images, labels


def _samples(builder, split: str):
    """Iterate over a split in stored order."""
    import tensorflow_datasets as tfds

    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return builder.as_data_source(split)  # needs no TensorFlow
    # Data prepared by someone else, as TFRecords: one file after the other keeps the order.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(builder.as_dataset(split, shuffle_files=False, read_config=config))


def _check_raw_files(name: str, raw_dir: Path, unchecked: bool) -> None:
    """Raise unless a folder holds the original files."""
    for file_name, checksum in DATASETS[name].source.files.items():
        path = raw_dir / file_name
        if not path.is_file():
            raise DatasetUnavailableError(
                f"{path.parent} holds no file {file_name}. {_raw_files_sentence(name)}"
            )
        if not unchecked and _sha256(path) != checksum:
            raise DatasetUnavailableError(
                f"{path} is not the original file: its checksum differs. It may be damaged or"
                f" downloaded in part. {_raw_files_sentence(name)}"
            )


def _raw_files_sentence(name: str) -> str:
    source = DATASETS[name].source
    files = ", ".join(source.files)
    sentence = f"The original files of {name} are {files}, from {source.url}."
    return f"{sentence} {source.hint}".rstrip()


def _sha256(path: Path) -> str:
    """Return a file's SHA-256; of idx.gz files that of the content.

    Fashion-MNIST is passed on in several gzip wrappers (Debian's has another header than the
    original download), with the same content.
    """
    opener = gzip.open if path.name.endswith("ubyte.gz") else open
    try:
        with opener(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"unreadable: {error}"


def _probe(name: str) -> None:
    """Raise unless the originals' host answers: TFDS itself would retry for minutes."""
    source = DATASETS[name].source
    url = source.url + next(iter(source.files))
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS):
            pass
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code < 500:
                return  # the host is there, and may like TFDS's request better
        raise DatasetUnavailableError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)})"
        ) from error


def _build(name: str, data_dir: Path, raw_dir: Path | None = None, download_dir=None) -> None:
    """Run TFDS's builder, on local files or on what it downloads."""
    with _explained(f"TFDS could not prepare {name} in {data_dir}"):
        import filelock
        import tensorflow_datasets as tfds

        _import_tensorflow()
        data_dir.mkdir(parents=True, exist_ok=True)
        # Of two processes at once, the second finds the data prepared.
        with filelock.FileLock(data_dir / f".{name}.lock"), _quiet():
            # Array records can be read without TensorFlow.
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            split_generators = builder._split_generators
            builder._split_generators = lambda manager: _wanted(
                split_generators(_RawFiles(manager, DATASETS[name].source.files, raw_dir))
            )
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_dir=download_dir, download_config=config)


def _import_tensorflow() -> None:
    """Import TensorFlow outside of `_quiet`, whose stream its loggers would keep for good."""
    # It only packs and unpacks images here; without these it announces how it would do sums.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow  # noqa: F401


def _wanted(splits):
    """Drop SVHN's third split, `extra`."""
    if isinstance(splits, dict):
        return splits
    return [split for split in splits if split.name in SPLITS]


class _RawFiles:
    """The two calls that these builders make on TFDS's download manager, for the wanted files."""

    def __init__(self, manager, wanted, raw_dir: Path | None):
        self._manager = manager
        self._wanted = wanted
        self._raw_dir = raw_dir

    def download(self, urls):
        if isinstance(urls, dict):
            return {key: self.download(url) for key, url in urls.items()}
        file_name = urls.rpartition("/")[2]
        if file_name not in self._wanted:
            return None  # SVHN's `extra`: 1.3 GB that no experiment uses
        if self._raw_dir is not None:
            return self._raw_dir / file_name
        return self._manager.download(urls)

    def download_and_extract(self, urls):
        return self._manager.extract(self.download(urls))


@contextlib.contextmanager
def _quiet():
    """Swallow TFDS's progress bars, announcements and log: what fails raises."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.CRITICAL)
    # Where the root logger has no handler, absl would give it one that writes to the redirected
    # stream for good.
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.root.removeHandler(handler)
        absl.setLevel(level)


@contextlib.contextmanager
def _explained(what_failed: str):
    """Turn whatever a library raises into a DatasetUnavailableError that begins so."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DatasetUnavailableError(f"{what_failed}: {reason}") from error
