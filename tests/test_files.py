"""Files are there as a whole or not at all, and arrays are read where they are used."""

import mmap

import numpy as np
import pytest

from fl.files import mapped_arrays, replacing


def test_readers_find_the_earlier_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "folder" / "some.txt"
    with replacing(path) as file:
        file.write(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_what_raises_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as file:
            file.write(b"ne")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "some.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"


def test_mapped_arrays_are_what_was_saved_and_lie_in_the_file(tmp_path):
    path = tmp_path / "some.npz"
    rng = np.random.default_rng(0)
    saved = {
        "images": rng.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8),
        "labels": rng.integers(0, 10, 50, dtype=np.int32),
        "columns": np.asfortranarray(rng.normal(size=(3, 4))),
    }
    np.savez(path, **saved)
    found = mapped_arrays(path)
    assert found.keys() == saved.keys()
    for name, array in found.items():
        assert array.dtype == saved[name].dtype
        assert np.array_equal(array, saved[name])
        assert isinstance(array.base, mmap.mmap)
        assert not array.flags.writeable


def test_compressed_arrays_cannot_be_mapped(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, images=np.zeros(100))
    with pytest.raises(ValueError, match=r"images\.npy is compressed"):
        mapped_arrays(path)
