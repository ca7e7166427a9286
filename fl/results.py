"""Result files of the experiments: safe appending, resuming, statistics over seeds, tables.

A results file is a CSV with one row a run (or an evaluation), whose last column is `date`. Several
processes may append to one file at once, and a process may be killed at any moment: what was
appended stays, and a line cut off in the middle is recognised and left out when reading.
"""

import csv
import io
import itertools
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

# Plots and tables list algorithms, data sets and models in this order.
DISPLAY_NAMES = {
    "fedavg": "FedAvg",
    "secagg": "SecAgg",
    "adam": "FedAvg (Adam)",
    "fedadam": "FedAdam",
    "secadam": "SecAdam",
    "secadam_fedadam": "SecAdam + FedAdam",
    "digits": "Digits",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "svhn_cropped": "SVHN",
    "softmax": "Softmax",
    "lenet": "LeNet-300-100",
    "cnn1": "CNN1",
    "cnn2": "CNN2",
    "resnet": "ResNet-50 V2",
}
_SHORT_NAMES = {"lenet": "LeNet", "resnet": "ResNet"}

# Columns that stay text even where all their values look like numbers (version 1.10 is not 1.1).
PROVENANCE = ("backend", "hardware", "jax", "version", "date")

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
# Numbers as Python writes them: a text such as 007 is not one.
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?|inf)", re.ASCII)
_BOOLEANS = {"True": True, "False": False}

DASH = "\N{EN DASH}"
FIGURE_SPACE = "\N{FIGURE SPACE}"  # as wide as a digit: lines numbers up inside a table column
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    DASH: "--",
    "†": r"\textsuperscript{$\dagger$}",
    "‡": r"\textsuperscript{$\ddagger$}",
    FIGURE_SPACE: r"\phantom{0}",
    "\n": " ",
    "\r": " ",
}
_CELL = re.compile(r"(\S*\d) ?(\(.*\)|)([†‡]*)")  # mean, deviation, marks
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_LATEX)) + "]")


class ResultsError(ValueError):
    """A results file that cannot be used; the message says why, and what to do."""


# --- files -----------------------------------------------------------------------------------


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
    path = Path(path)
    if path.is_dir():
        raise ResultsError(f"{path} is a folder: name a results file")
    # A BOM and CR LF line ends are what spreadsheets leave behind.
    text = path.read_bytes().decode("utf-8-sig", errors="replace") if path.exists() else ""
    lines = text.split("\n")
    header = _parse(lines[0])
    rows = list(_complete_rows(path, lines, header))
    if needs and not rows:
        raise ResultsError(f"no results yet in {path}: run experiment.sh first")
    missing = [name for name in needs if name not in header]
    if missing:
        raise ResultsError(f"{path} is not a results file for this: it lacks {', '.join(missing)}")
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    columns = [_column(name, values) for name, values in zip(header, cells, strict=True)]
    return pd.concat(columns, axis=1) if columns else pd.DataFrame()


def history_path(path: str | Path) -> Path:
    """Path of the evaluations that belong to a results file: X.csv -> X.history.csv."""
    return Path(path).with_suffix(".history.csv")


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
        _create(path, _encode_header(columns))
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


def _create(path, header):
    """Create a file that holds its whole header from the first moment on."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write(descriptor, header)
    finally:
        os.close(descriptor)
    new.replace(path)


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


# --- rows and statistics ---------------------------------------------------------------------


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


def is_done(frame: pd.DataFrame, cell: Mapping) -> bool:
    """Whether any row agrees with all values of `cell` (see `matches`)."""
    return not frame.empty and bool(matches(frame, cell).any())


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


def groups(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield each combination of values of the columns `by` (NaN is one) with its rows."""
    for values, rows in frame.groupby(list(by), dropna=False, sort=False):
        yield dict(zip(by, values, strict=True)), rows


def mean_and_std(
    frame: pd.DataFrame,
    by: Sequence[str],
    value: str,
    order: Mapping[str, Sequence] | None = None,
) -> pd.DataFrame:
    """Mean and sample standard deviation (n - 1) of a column over the runs of each group.

    Runs with the status `diverged` are counted, and kept out of mean and deviation.

    Args:
        frame: a row for each run, `status` among its columns or not.
        by: columns that name a group; NaN in them is a value like others.
        value: the column of numbers.
        order: as for `in_order`; without it, groups come in the order of their first rows.

    Returns:
        A frame with the columns `by`, mean, std (NaN for one run), runs (that the mean is over),
        diverged (runs) and missing (other runs without a value).
    """
    by = list(by)
    ok = pd.Series(True, index=frame.index)
    if "status" in frame:
        ok = frame["status"] != "diverged"
    data = frame[by].assign(
        mean=frame[value].where(ok),
        diverged=~ok,
        missing=ok & frame[value].isna(),
    )
    stats = data.groupby(by, dropna=False, sort=False, as_index=False).agg(
        std=("mean", "std"),
        runs=("mean", "count"),
        mean=("mean", "mean"),
        diverged=("diverged", "sum"),
        missing=("missing", "sum"),
    )
    return in_order(stats[[*by, "mean", "std", "runs", "diverged", "missing"]], order or {})


def in_order(frame: pd.DataFrame, order: Mapping[str, Sequence]) -> pd.DataFrame:
    """Sort rows by the columns of `order`, the first one first; unlisted values go last.

    Args:
        frame: rows; among equals they keep their order. The index is renumbered.
        order: column to its values in the order wanted; absent columns are passed over.
    """
    for name in reversed([name for name in order if name in frame]):
        rank = {key: number for number, key in enumerate(order[name])}
        frame = frame.sort_values(name, key=lambda keys, rank=rank: keys.map(rank), kind="stable")
    return frame.reset_index(drop=True)


# --- tables ----------------------------------------------------------------------------------


def display_name(key: str, short: bool = False) -> str:
    """Name for plots and tables of an algorithm, a data set or a model; else the key itself."""
    return (_SHORT_NAMES.get(key) if short else None) or DISPLAY_NAMES.get(key, key)


def display_order(keys: Iterable[str]) -> list[str]:
    """Distinct keys in the order of `DISPLAY_NAMES`, unknown ones behind in their own order."""
    keys = list(dict.fromkeys(keys))
    return [key for key in DISPLAY_NAMES if key in keys] + [
        key for key in keys if key not in DISPLAY_NAMES
    ]


def text_table(
    stats: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: float = 1.0,
    decimals: int = 1,
    missing: str = "missing",
    order: Mapping[str, Sequence] | None = None,
) -> pd.DataFrame:
    """Lay statistics out as a table of cells `mean (std)`.

    A cell has one † for each diverged run and one ‡ for each without a value; without any run left
    it reads `diverged` or `missing`, and a combination without runs is a dash.

    Args:
        stats: what `mean_and_std` returns.
        rows: one column of `stats`, or two: group and row.
        columns: one column of `stats`, or two: spanning header and header.
        scale: factor on mean and deviation (100 for percent).
        decimals: digits behind the point.
        missing: word for a cell whose runs have no value.
        order: as for `in_order`; without it, rows and columns come in the order of `stats`.
    """
    form = f".{decimals}f"
    # One run has no deviation: a dash, unless that goes for the whole table.
    spread = stats["std"].notna().any()
    texts = [_cell_text(cell, scale, form, spread, missing) for cell in stats.itertuples()]
    table = _pivot(stats.assign(text=texts), rows, columns, "text", order or {})
    return table.fillna(DASH).apply(_align)


def best(
    stats: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    along: str = "rows",
    largest: bool = True,
    decimals: int = 3,
) -> pd.DataFrame:
    """Mask of the best means, with the rows and columns of the table that `text_table` makes.

    Args:
        stats: what `mean_and_std` returns.
        rows: as for `text_table`.
        columns: as for `text_table`.
        along: `rows` for the best row of each column, `columns` for the best column of each row.
        largest: whether the largest mean is best, or the smallest.
        decimals: means that agree after rounding to these digits are equally good.
    """
    means = _pivot(stats, rows, columns, "mean", {}).astype(float).round(decimals)
    axis = 0 if along == "rows" else 1
    return means.eq(means.max(axis=axis) if largest else means.min(axis=axis), axis=1 - axis)


def latex_table(
    cells: pd.DataFrame,
    caption: str | None = None,
    label: str | None = None,
    bold: pd.DataFrame | None = None,
    wide: bool = False,
) -> str:
    r"""Typeset a table of text for LaTeX with the package booktabs.

    Args:
        cells: text with one or two levels of rows (group, row) and of columns; the name of the
            last row level heads the first column. Special characters are escaped.
        caption: plain text, or None.
        label: for `\ref`, or None. Without caption and label the result is a bare tabular.
        bold: mask of the cells whose mean is set in bold; cells that it lacks are not.
        wide: span both columns of a two-column page.
    """
    spans, names = _headers(cells)
    width = cells.shape[1]
    lines = [rf"\begin{{tabular}}{{@{{}}l{'c' * width}@{{}}}}", r"\toprule"]
    if spans:
        lines += _latex_spans(spans)
    lines.append(" & ".join(map(_escape, [_stubs(cells)[-1], *names])) + r" \\")
    strong, previous = _strong(cells, bold), None
    for number, key in enumerate(cells.index):
        *group, row = key if isinstance(key, tuple) else (key,)
        if number == 0 or group != previous:
            lines.append(r"\midrule")
            if group:
                heading = rf"\emph{{{_escape(group[0])}}}"
                lines.append(rf"\multicolumn{{{width + 1}}}{{@{{}}l}}{{{heading}}} \\")
        previous = group
        values = map(_latex_cell, cells.iloc[number], strong[number])
        lines.append(" & ".join([_escape(str(row)), *values]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption is not None or label is not None:
        lines = _latex_float(lines, caption, label, wide)
    return "\n".join(lines) + "\n"


def markdown_table(cells: pd.DataFrame, bold: pd.DataFrame | None = None) -> str:
    """Typeset a table of text as GitHub does it; arguments as for `latex_table`."""
    spans, names = _headers(cells)
    names = [f"{span} {name}" for span, name in zip(spans or [""] * len(names), names, strict=True)]
    stub, strong = _stubs(cells), _strong(cells, bold)
    lines = [[*stub, *names], [*[":--"] * len(stub), *["--:"] * len(names)]]
    for number, key in enumerate(cells.index):
        texts = cells.iloc[number].str.replace(FIGURE_SPACE, "")
        values = [f"**{t}**" if s else t for t, s in zip(texts, strong[number], strict=True)]
        lines.append([*map(str, key if isinstance(key, tuple) else (key,)), *values])
    escaped = [[re.sub(r"\s*\n\s*", " ", t).replace("|", r"\|").strip() for t in r] for r in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _cell_text(cell, scale, form, spread, missing):
    if np.isnan(cell.mean):
        return missing if cell.missing else "diverged"
    text = f"{cell.mean * scale:{form}}"
    if spread:
        text += f" ({DASH if np.isnan(cell.std) else f'{cell.std * scale:{form}}'})"
    return text + "†" * cell.diverged + "‡" * cell.missing


def _align(column):
    """Pad means and deviations of a column to one width each, so that they line up."""
    parts = [_CELL.fullmatch(text) for text in column]
    before, after = (max((len(part[i]) for part in parts if part), default=0) for i in (1, 2))
    texts = [
        f"{part[1]:{FIGURE_SPACE}>{before}}"
        + (f" {part[2]:{FIGURE_SPACE}>{after}}" if part[2] else "")
        + part[3]
        if part
        else text
        for text, part in zip(column, parts, strict=True)
    ]
    return pd.Series(texts, index=column.index, dtype="str")


def _pivot(stats, rows, columns, values, order):
    def labels(names):
        keys = in_order(stats[list(names)].drop_duplicates(), order)
        return pd.MultiIndex.from_frame(keys) if len(names) > 1 else pd.Index(keys[names[0]])

    wide = stats.pivot(index=list(rows), columns=list(columns), values=values)
    return wide.reindex(index=labels(rows), columns=labels(columns))


def _headers(cells):
    """Spanning headers (None with one level of columns) and headers of a table."""
    if cells.columns.nlevels == 1:
        return None, [str(name) for name in cells.columns]
    return tuple([str(key[level]) for key in cells.columns] for level in (0, 1))


def _stubs(cells):
    return [(name or "").replace("_", " ").capitalize() for name in cells.index.names]


def _strong(cells, bold):
    if bold is None:
        return np.zeros(cells.shape, bool)
    return bold.reindex(index=cells.index, columns=cells.columns, fill_value=False).to_numpy()


def _latex_spans(spans):
    cells, rules, column = [""], [], 2
    for span, members in itertools.groupby(spans):
        count = len(list(members))
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_escape(span)}}}")
        rules.append(rf"\cmidrule(lr){{{column}-{column + count - 1}}}")
        column += count
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _latex_cell(text, bold):
    marks = text[len(text.rstrip("†‡")) :]
    number, space, rest = text.removesuffix(marks).partition(" ")
    number = rf"\textbf{{{_escape(number)}}}" if bold else _escape(number)
    # Marks take no room, or the numbers would no longer line up.
    hanging = rf"\rlap{{{_escape(marks)}}}" if marks else ""
    return number + space + _escape(rest) + hanging


def _latex_float(lines, caption, label, wide):
    environment = "table*" if wide else "table"
    return [
        rf"\begin{{{environment}}}",
        r"\centering",
        *([rf"\caption{{{_escape(caption)}}}"] if caption is not None else []),
        *([rf"\label{{{label}}}"] if label is not None else []),
        r"\par\smallskip\footnotesize",
        # Nine columns of mean (std) fit on a page.
        *([r"\setlength{\tabcolsep}{3pt}"] if wide else []),
        *lines,
        rf"\end{{{environment}}}",
    ]


def _escape(text):
    return _LATEX_SPECIAL.sub(lambda match: _LATEX[match[0]], text)


# --- where a result comes from ---------------------------------------------------------------


def provenance() -> dict[str, str]:
    """What a row says about where it was computed: backend, hardware, jax, version, date (UTC)."""
    import jax  # the rest of this module serves scripts that need no JAX

    from fl import __version__

    return {
        "backend": jax.default_backend(),
        "hardware": _hardware(jax.devices()),
        "jax": jax.__version__,
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _hardware(devices):
    if devices[0].platform != "cpu":
        count = f"{len(devices)} x " if len(devices) > 1 else ""
        return count + devices[0].device_kind
    # Containers and job schedulers may grant fewer cores than the machine has.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return f"{_processor()} ({cores} core{'s' if cores != 1 else ''})"


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
