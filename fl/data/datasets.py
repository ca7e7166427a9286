"""Named data sets as uint8 arrays.

`catalogue` says which there are. `digits` comes with scikit-learn. The others are TensorFlow
Datasets' own: read from its data directory, downloaded by it, or prepared there from the original
files:

    python -m fl.data prepare fashion_mnist --raw /usr/share/datasets/fashion-mnist

Decoding takes a while, so the arrays are kept in `<data directory>/fl_cache/<name>.npz`. That file
alone is enough to load a data set, without TensorFlow Datasets, on any machine.
"""

import os
import shlex
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fl import files
from fl.data import tfds_builders
from fl.data.catalogue import DATASETS, Bundled, aliases
from fl.data.tfds_builders import DatasetUnavailableError


class Dataset(NamedTuple):
    """A data set in memory. Sample order is fixed, see `load`."""

    name: str  # in `DATASETS`
    train_images: np.ndarray  # uint8 [samples, height, width, channels]
    train_labels: np.ndarray  # int32 [samples], 0 to classes - 1
    test_images: np.ndarray  # uint8 [samples, height, width, channels]
    test_labels: np.ndarray  # int32 [samples], 0 to classes - 1
    scale: float  # the pixel value that stands for 1.0


def canonical_name(name: str) -> str:
    """Return a data set's name in `DATASETS`, given that or an alias.

    Args:
      name: a data set's name or alias.

    Raises:
      ValueError: there is no such data set.
    """
    name = aliases().get(name, name)
    if name not in DATASETS:
        also = ", ".join(f"{alias} = {known}" for alias, known in aliases().items())
        raise ValueError(f"no data set {name!r}: choose from {', '.join(DATASETS)} ({also})")
    return name


def load(name: str, data_dir: str | Path | None = None, mapped: bool = False) -> Dataset:
    """Load a data set, downloading or decoding it where that has not been done yet.

    Samples come in the same order everywhere: as the package that brings them along stores them, or
    as TensorFlow Datasets does, which is not the order of the original files but a shuffle of it,
    fixed by each sample's position.

    Args:
      name: a data set's name or alias.
      data_dir: TFDS's data directory; None is TFDS's default, `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`. Not used for what a package brings along.
      mapped: leave images that are cached on the disk until they are used, see
        `fl.files.mapped_arrays`.

    Raises:
      ValueError: there is no such data set.
      DatasetUnavailableError: the data are not here and cannot be downloaded; the message says
        how to supply them.
    """
    name = canonical_name(name)
    entry = DATASETS[name]
    if isinstance(entry.source, Bundled):
        return _checked(Dataset(name, **entry.source.load(), scale=entry.scale))
    data_dir = resolve_dir(data_dir)
    cache = _cache_path(name, data_dir)
    dataset = _read_cache(name, cache, data_dir, mapped)
    if dataset is None:
        if tfds_builders.prepared_dir(name, data_dir) is None:
            _download(name, data_dir)
        dataset = _checked(Dataset(name, **tfds_builders.read(name, data_dir), scale=entry.scale))
        _write_cache(dataset, cache)
    return dataset


def prepare(
    name: str,
    raw_dir: str | Path,
    data_dir: str | Path | None = None,
    unchecked: bool = False,
) -> None:
    """Let TFDS prepare a data set from its original files in a local folder.

    Args:
      name: a data set's name or alias, not of one that a package brings along.
      raw_dir: folder that holds the original files.
      data_dir: TFDS's data directory, as in `load`; made if missing. What is prepared in it
        already stays.
      unchecked: accept files that differ from the originals.

    Raises:
      ValueError: there is no such data set, or a package brings it along.
      DatasetUnavailableError: a file is missing or not the original, or TFDS fails.
    """
    name = canonical_name(name)
    source = DATASETS[name].source
    if isinstance(source, Bundled):
        raise ValueError(f"{name} comes with {source.package}: there is nothing to prepare")
    tfds_builders.prepare(name, Path(raw_dir).expanduser(), resolve_dir(data_dir), unchecked)


def cache_dir(data_dir: str | Path | None = None) -> Path:
    """Return the folder that keeps what was computed from data sets; it may not be there yet.

    Args:
      data_dir: TFDS's data directory, as in `load`.
    """
    return resolve_dir(data_dir) / "fl_cache"


def resolve_dir(data_dir: str | Path | None) -> Path:
    """Return the data directory, by TFDS's own rule where none is given."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(default if data_dir is None else data_dir).expanduser()


def _download(name: str, data_dir: Path) -> None:
    """Let TFDS download a data set, or say how to supply it."""
    try:
        tfds_builders.download(name, data_dir)
    except DatasetUnavailableError as error:
        source = DATASETS[name].source
        is_default = data_dir == resolve_dir(None)
        option = "" if is_default else f" --data-dir {shlex.quote(str(data_dir))}"
        raise DatasetUnavailableError(
            f"{name} is not available. There are no cached arrays ({_cache_path(name, data_dir)}),"
            f" no data prepared by TensorFlow Datasets ({data_dir / name}), and downloading failed:"
            f" {error}.\nTo supply the data, put the original {', '.join(source.files)} (from"
            f" {source.url}) into a folder DIR and run\n"
            f"    python -m fl.data prepare {name} --raw DIR{option}\n{source.hint}".rstrip()
        ) from error


def _checked(dataset: Dataset) -> Dataset:
    """Return a data set whose arrays are as `Dataset` says, or raise DatasetUnavailableError."""
    entry = DATASETS[dataset.name]
    classes = len(entry.classes)
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        if not (
            (images.dtype, labels.dtype) == (np.uint8, np.int32)
            and images.shape[1:] == entry.image_shape
            and labels.shape == images.shape[:1] != (0,)
            and labels.min() >= 0
            and labels.max() < classes
        ):
            raise DatasetUnavailableError(
                f"these are not the images and the {classes} classes of {dataset.name}: images"
                f" {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}"
            )
    return dataset


def _cache_path(name: str, data_dir: Path) -> Path:
    return cache_dir(data_dir) / f"{name}.npz"


def _read_cache(name: str, cache: Path, data_dir: Path, mapped: bool) -> Dataset | None:
    """Return the cached data set, or None if it is missing, older than the data, or damaged."""
    prepared = tfds_builders.prepared_dir(name, data_dir)
    try:
        if prepared is not None:
            info = prepared / "dataset_info.json"
            if info.stat().st_mtime_ns > cache.stat().st_mtime_ns:
                return None
        if mapped:
            arrays = files.mapped_arrays(cache)
        else:
            with cache.open("rb") as file, np.load(file) as read:
                arrays = dict(read)
        return _checked(Dataset(name, **arrays, scale=DATASETS[name].scale))
    except Exception:  # a damaged file can make NumPy raise almost anything
        return None


def _write_cache(dataset: Dataset, cache: Path) -> None:
    """Cache the arrays."""
    # All fields but the name and the scale.
    arrays = {field: getattr(dataset, field) for field in Dataset._fields[1:-1]}
    try:
        with files.replacing(cache) as file:
            np.savez(file, **arrays)
    except OSError as error:
        warnings.warn(
            f"{dataset.name} will be decoded each time: its arrays cannot be cached ({error})",
            stacklevel=3,
        )


def where(name: str, data_dir: Path) -> str:
    """Say where `load` would find a data set."""
    source = DATASETS[name].source
    if isinstance(source, Bundled):
        return f"comes with {source.package}"
    cache = _cache_path(name, data_dir)
    if cache.exists():
        return f"cached in {cache}"
    if prepared := tfds_builders.prepared_dir(name, data_dir):
        return f"prepared in {prepared}"
    return f"not in {data_dir}: would be downloaded"
