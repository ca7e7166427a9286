"""Result files of the experiments: safe appending, reading, and what has been run already.

A results file is a CSV with one row a run (or an evaluation), whose last column is `date`. Several
processes may append to one file at once, and a process may be killed at any moment: what was
appended stays, and a line cut off in the middle is recognised and left out when reading.
"""

import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from fl import files

# Columns that stay text even where all their values look like numbers (version 1.10 is not 1.1).
PROVENANCE = ("backend", "hardware", "jax", "version", "code", "date")

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
# Numbers as Python writes them: a text such as 007 is not one.
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?|inf)", re.ASCII)
_BOOLEANS = {"True": True, "False": False}


class ResultsError(ValueError):
    """A results file that cannot be used; the message says why, and what to do."""


def append(path: str | Path, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    """Append rows to a results file, which is created where absent.

    Rows go out in one write to a descriptor opened for appending, then to the disk, under the lock
    file `<path>.lock`. After a last line that was cut off they start on a line of their own; the
    fragment stays as it is. Nothing in the file is ever overwritten.

    Args:
        path: the file; its folder exists.
        rows: a mapping each from column to text, number, bool or None. None, NaN and an absent key
            make an empty cell. Floats are written so that they read back exactly.
        columns: the columns of the file, in order, the last of them `date`.

    Raises:
        ResultsError: if the file has other columns. The rows are then in a new file beside it,
            which the message names.
        ValueError: if a row has a key outside `columns`.
        OSError: if the rows cannot be written (disk full, ...); a note on it holds them.
    """
    path = Path(path)
    lines = _encode(rows, columns)
    if not lines:
        return
    try:
        with FileLock(f"{path}.lock"):
            problem = _column_problem(path, columns)
            if problem:
                rescued = _rescue(path, _encode_header(columns) + lines)
                raise ResultsError(f"{problem}\nThe new rows are safe in {rescued}.")
            _append_lines(path, lines, columns)
    except OSError as error:
        error.add_note(f"Rows that are not in {path}:\n{lines.decode()}")
        raise


def check(path: str | Path, columns: Sequence[str]) -> None:
    """Make sure, before a run starts, that its rows can be appended to a file.

    Args:
        path: the file, which may be absent.
        columns: the columns that will be appended.

    Raises:
        ResultsError: if the file is none or has other columns, if its folder is missing, or if
            either cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ResultsError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and not path.is_file():
        raise ResultsError(f"{path} is not a file: name a file, such as {path / 'results.csv'}")
    # The lock file lies in the same folder, so that must be writable even if the file exists.
    for target in (path.parent, path) if path.exists() else (path.parent,):
        if not os.access(target, os.R_OK | os.W_OK):
            raise ResultsError(f"{target} cannot be written: choose another --results")
    problem = _column_problem(path, columns)
    if problem:
        raise ResultsError(problem)


def read(path: str | Path, needs: Sequence[str] = ()) -> pd.DataFrame:
    """Read the complete rows of a results file.

    A row counts as complete if it has as many fields as the header and, where the last column is
    `date`, a full UTC timestamp there (2026-11-22T10:53:50Z): a line that was cut off has neither.
    Other lines are left out with a warning that names them. A column whose cells all hold numbers
    (or True and False) becomes one of numbers (bools), except those in `PROVENANCE`; an empty cell
    is NaN.

    Args:
        path: the file.
        needs: columns that the caller cannot do without.

    Returns:
        A frame with a row for each complete line; without columns if the file is absent.

    Raises:
        ResultsError: if `needs` is given and the file has no row, or lacks one of these columns.
    """
    header, rows = read_text(path)
    if needs and not rows:
        raise ResultsError(f"no results yet in {path}: run experiment.sh first")
    missing = [name for name in needs if name not in header]
    if missing:
        raise ResultsError(f"{path} is not a results file for this: it lacks {', '.join(missing)}")
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    columns = [_column(name, values) for name, values in zip(header, cells, strict=True)]
    return pd.concat(columns, axis=1) if columns else pd.DataFrame()


def read_text(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """As `read` -> the columns, and the cells of the complete rows as they are written.

    Raises:
        ResultsError: for a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ResultsError(f"{path} is a folder: name a results file")
    # A BOM and CR LF line ends are what spreadsheets leave behind.
    text = path.read_bytes().decode("utf-8-sig", errors="replace") if path.exists() else ""
    lines = text.split("\n")
    header = _parse(lines[0])
    return header, list(_complete_rows(path, lines, header))


def history_path(path: str | Path) -> Path:
    """Path of the evaluations that belong to a results file: X.csv -> X.history.csv."""
    return Path(path).with_suffix(".history.csv")


def curves_path(path: str | Path) -> Path:
    """Path of the curves that belong to a results file: X.csv -> X.curves.csv."""
    return Path(path).with_suffix(".curves.csv")


def _encode(rows, columns):
    return "".join(_line(row, columns) for row in rows).encode("utf-8", errors="backslashreplace")


def _line(row, columns):
    # Only with this line end does csv quote a lone carriage return, which it could not read back.
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\r\n")
    writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue().removesuffix("\r\n") + "\n"


def _encode_header(columns):
    return _encode([{name: name for name in columns}], columns)


def _cell(value):
    value = value.item() if hasattr(value, "item") else value  # NumPy and JAX scalars
    if pd.isna(value):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _column_problem(path, columns):
    """Sentence on how the columns of an existing file differ from `columns`, or None."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        line = file.readline().decode("utf-8-sig", errors="replace")
    header, columns = _parse(line.rstrip("\r\n")), list(columns)
    if header in ([], columns):  # an empty file gets a header
        return None
    missing = [name for name in columns if name not in header]
    unknown = [name for name in header if name not in columns]
    differences = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"unknown: {', '.join(unknown)}"] if unknown else []),
    ] or ["the same ones in another order, or repeated"]
    return (
        f"{path} has other columns than this version writes ({'; '.join(differences)}). "
        "Write to another file with --results OTHER.csv, or move this one away."
    )


def _append_lines(path, lines, columns):
    if not path.exists():
        with files.replacing(path) as file:  # its whole header is there from the first moment on
            file.write(_encode_header(columns))
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            lines = _encode_header(columns) + lines
        elif os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        _write(descriptor, lines)
    finally:
        os.close(descriptor)


def _rescue(path, data):
    for number in itertools.count(1):
        rescued = path.with_name(f"{path.stem}.rescued-{number}{path.suffix}")
        try:
            descriptor = os.open(rescued, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        try:
            _write(descriptor, data)
        finally:
            os.close(descriptor)
        return rescued


def _write(descriptor, data):
    # One write, except on a disk that fills up: then the second one raises the reason.
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _complete_rows(path, lines, header):
    dated = header[-1:] == ["date"]

    def complete(fields):
        return len(fields) == len(header) and (not dated or bool(_DATE.fullmatch(fields[-1])))

    start = 1
    while start < len(lines):
        fields, end = _record(lines, start)
        if complete(fields):
            yield fields
            start = end
            continue
        # Go on with the next line, also where an open quote seemed to go over several: the
        # fragment that opened it must not swallow the good rows behind it.
        if lines[start].strip():
            warnings.warn(
                f"{path}, line {start + 1}: left out, this row was cut off or is malformed",
                stacklevel=3,
            )
        start += 1


def _record(lines, start):
    """Fields of the record that starts on a line, and the number of the line after it."""
    quotes = 0
    for end in range(start, len(lines)):
        quotes += lines[end].count('"')
        if quotes % 2 == 0:
            return _parse("\n".join(lines[start : end + 1])), end + 1
    return [], len(lines)


def _parse(text):
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return []


def _column(name, values):
    """Turn the cells of a column into a Series of bools, integers, floats or text."""
    present = [value for value in values if value]
    if name not in PROVENANCE:
        if present and all(value in _BOOLEANS for value in present):
            return pd.Series([_BOOLEANS.get(value, np.nan) for value in values], name=name)
        if len(present) == len(values) and all(map(_INTEGER.fullmatch, values)):
            return pd.Series([int(value) for value in values], name=name)
        if all(map(_NUMBER.fullmatch, present)):
            numbers = [float(value) if value else np.nan for value in values]
            return pd.Series(numbers, name=name, dtype=float)
    return pd.Series([value or np.nan for value in values], name=name, dtype="str")


def matches(frame: pd.DataFrame, cell: Mapping) -> pd.Series:
    """Mask of the rows of a frame that agree with all values of a mapping.

    Args:
        frame: rows as `read` gives them.
        cell: column to value. Numbers, also as text, are compared as numbers up to a relative
            difference of 1e-9; None and NaN match empty cells.

    Raises:
        KeyError: if the frame lacks one of the columns.
    """
    mask = pd.Series(True, index=frame.index)
    for name, value in cell.items():
        mask &= _equal(frame[name], value)
    return mask


def _equal(column, value):
    if pd.isna(value):
        return column.isna()
    same = column.astype("str") == str(value)
    try:
        number = float(value)
    except ValueError:
        return same
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return same | np.isclose(numbers, number, rtol=1e-9, atol=0)
