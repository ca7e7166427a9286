"""Files that are there as a whole or not at all, and arrays that are read where they are used."""

import mmap
import os
import struct
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file in place of an earlier one, if there is one.

    Readers find the earlier file or the whole new one, however many processes write it and
    whenever they are killed. Where the body raises, the earlier file stays.

    Args:
        path: the file; its folder is created where absent.

    Yields:
        What to write to, open in binary mode.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        with new.open("wb") as file:
            yield file
            # Else a crash of the machine may leave the new name with the content lost.
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def mapped_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `np.savez`, of which only those pages are read that are used.

    Their content is not held against the checksums in the file.

    Args:
        path: the file. Once it is replaced, the arrays are still those of the earlier one.

    Returns:
        Name -> read-only array.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is empty, or holds something else, such as compressed arrays.
        zipfile.BadZipFile: if it is no such file.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as members:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # where the system can be told not to read ahead
            content.madvise(mmap.MADV_RANDOM)
        return {
            member.filename.removesuffix(".npy"): _array(file, member, content)
            for member in members.infolist()
        }


def _array(file, member, content):
    """An array that lies in a file's content, where its member of the archive says."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    # The member's own header is as long as the two lengths at its end say.
    file.seek(member.header_offset + 26)
    name_and_extra = struct.unpack("<HH", file.read(4))
    file.seek(sum(name_and_extra), os.SEEK_CUR)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename} is of another version")
    shape, in_columns, kind = np.lib.format.read_array_header_1_0(file)
    order = "F" if in_columns else "C"
    return np.ndarray(shape, kind, content, file.tell(), order=order)
