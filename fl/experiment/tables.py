"""Tables of results for LaTeX (booktabs) and GitHub, and the names that plots and tables show."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fl.data.catalogue import DATASETS
from fl.experiment.summary import in_order

# Plots and tables list algorithms, data sets and models in this order.
DISPLAY_NAMES = {
    "fedavg": "FedAvg",
    "secagg": "SecAgg",
    "adam": "FedAvg (Adam)",
    "fedadam": "FedAdam",
    "secadam": "SecAdam",
    "secadam_fedadam": "SecAdam + FedAdam",
    **{name: entry.title for name, entry in DATASETS.items()},
    "softmax": "Softmax",
    "lenet": "LeNet-300-100",
    "cnn1": "CNN1",
    "cnn2": "CNN2",
    "resnet": "ResNet-50 V2",
}
# How the names of algorithms change with what is done to their clients' data or updates.
_VARIANTS = {
    "{}": "{}",
    "{}_perturbed": "Perturbed {}",
    "dp_{}": "DP-{}",
    "dp_{}_perturbed": "Perturbed DP-{}",
}
_SHORT_NAMES = {"lenet": "LeNet", "resnet": "ResNet"}

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
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{GREEK SMALL LETTER EPSILON}": r"$\varepsilon$",
    DASH: "--",
    "†": r"\textsuperscript{$\dagger$}",
    "‡": r"\textsuperscript{$\ddagger$}",
    FIGURE_SPACE: r"\phantom{0}",
    "\n": " ",
    "\r": " ",
}
_CELL = re.compile(r"(\S*\d) ?(\(.*\)|)([†‡]*)")  # mean, deviation, marks
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_LATEX)) + "]")


def display_name(key: str, short: bool = False) -> str:
    """Name for plots and tables of an algorithm, a data set or a model; else the key itself."""
    known = {**DISPLAY_NAMES, **_SHORT_NAMES} if short else DISPLAY_NAMES
    if key in known:
        return known[key]
    base, variant = _split(key)
    # An algorithm under a transform is named after it.
    return _VARIANTS[variant].format(DISPLAY_NAMES[base]) if base in DISPLAY_NAMES else key


def display_order(keys: Iterable[str]) -> list[str]:
    """Distinct keys in the order of `DISPLAY_NAMES`.

    Behind them the perturbed algorithms and those with differential privacy, in the same order;
    at the end unknown keys, in their own.
    """
    order = {key: number for number, key in enumerate(DISPLAY_NAMES)}
    variants = list(_VARIANTS)

    def place(key):
        base, variant = _split(key)
        return (variants.index(variant), order[base]) if base in order else (len(variants), 0)

    return sorted(dict.fromkeys(keys), key=place)


def _split(key):
    """An algorithm's key -> that without a transform, and the transform's variant."""
    base = key.removeprefix("dp_").removesuffix("_perturbed")
    return base, key.replace(base, "{}", 1)


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
