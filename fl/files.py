"""Files that are there as a whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
