"""Tables of results for LaTeX (booktabs) and GitHub."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

DASH = "\N{EN DASH}"
FIGURE_SPACE = "\N{FIGURE SPACE}"  # as wide as a digit: lines numbers up inside a table column
_MARKS = "†‡§"  # behind a mean: runs that diverged, runs without a value, what a caption says
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: rf"\{character}" for character in "{}$&#%_"},
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
        "\N{GREEK SMALL LETTER DELTA}": r"$\delta$",
        "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
        "\N{GREEK SMALL LETTER EPSILON}": r"$\varepsilon$",
        DASH: "--",
        "†": r"\textsuperscript{$\dagger$}",
        "‡": r"\textsuperscript{$\ddagger$}",
        "§": r"\textsuperscript{\S}",
        FIGURE_SPACE: r"\phantom{0}",
        "\n": " ",
        "\r": " ",
    }
)
_CELL = re.compile(rf"(\S*\d) ?(\(.*\)|)([{_MARKS}]*)")  # mean, deviation, marks


def cell_texts(
    stats: pd.DataFrame, scale: float = 1.0, decimals: int = 1, missing: str = "missing"
) -> list[str]:
    """Statistics as the texts of cells: `mean (std)`.

    A text has one † for each diverged run and one ‡ for each without a value; without any run left
    it reads `diverged` or `missing`.

    Args:
        stats: what `mean_and_std` returns.
        scale: factor on mean and deviation (100 for percent).
        decimals: digits behind the point.
        missing: word for a cell whose runs have no value.
    """
    form = f".{decimals}f"
    # One run has no deviation: a dash, unless that goes for the whole table.
    spread = stats["std"].notna().any()
    return [_cell_text(cell, scale, form, spread, missing) for cell in stats.itertuples()]


def text_table(stats: pd.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Lay texts out as a table, its rows and columns sorted; a combination without one is a dash.

    Args:
        stats: what `mean_and_std` returns, with `cell_texts` as its column `text`.
        rows: one column of `stats`, or two: group and row.
        columns: likewise: header, or spanning header and header.
    """
    return _pivot(stats, rows, columns, "text").fillna(DASH).apply(_align)


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
    means = _pivot(stats, rows, columns, "mean").astype(float).round(decimals)
    axis = 0 if along == "rows" else 1
    return means.eq(means.max(axis=axis) if largest else means.min(axis=axis), axis=1 - axis)


def latex_table(
    cells: pd.DataFrame,
    caption: str,
    label: str,
    bold: pd.DataFrame | None = None,
    wide: bool = False,
) -> str:
    r"""Typeset a table of text for LaTeX with the package booktabs.

    Args:
        cells: text with one or two levels of rows (group, row) and of columns; the name of the
            last row level heads the first column. Special characters are escaped.
        caption: plain text.
        label: for `\ref`.
        bold: mask of the cells that are set in bold; cells that it lacks are not.
        wide: span both columns of a two-column page.
    """
    texts = cells.map(_latex_cell)
    texts = texts.mask(_strong(cells, bold), r"\textbf{" + texts + "}")
    texts.columns = texts.columns.map(_escaped)
    stub = _escaped(_stubs(cells)[-1])
    if cells.columns.nlevels > 1:
        stub = ("", _rules(cells.columns) + stub)
    # The rows' names stand in a column: pandas would give the header of an index its own line.
    texts.insert(0, stub, _row_names(cells.index.map(_escaped), cells.shape[1] + 1))
    # So eight columns of mean (std), or forty rows in groups, fit on a page.
    rows, columns = cells.shape
    size = "footnotesize" if rows < 30 and columns < 8 else "scriptsize"
    small = [{"selector": "par", "props": rf":\smallskip\{size}"}]
    narrow = [{"selector": "setlength", "props": r":{\tabcolsep}{3pt}"}] if wide else []
    return (
        texts.reset_index(drop=True)
        .style.hide(axis="index")
        .set_table_styles(small + narrow)
        .to_latex(
            column_format=f"@{{}}l{'c' * cells.shape[1]}@{{}}",
            hrules=True,
            multicol_align="c",
            position_float="centering",
            environment="table*" if wide else "table",
            caption=caption.translate(_LATEX),
            label=label,
        )
    )


def markdown_table(cells: pd.DataFrame, bold: pd.DataFrame | None = None) -> str:
    """Typeset a table of text as GitHub does it; arguments as for `latex_table`."""
    texts = cells.map(lambda text: text.replace(FIGURE_SPACE, ""))
    texts = texts.mask(_strong(cells, bold), "**" + texts + "**")
    if texts.columns.nlevels > 1:
        texts.columns = texts.columns.map(" ".join)
    texts = texts.reset_index(names=_stubs(cells))
    texts = texts.map(_markdown_cell).rename(columns=_markdown_cell)
    aligned = ["left"] * cells.index.nlevels + ["right"] * cells.shape[1]
    return texts.to_markdown(index=False, disable_numparse=True, colalign=aligned) + "\n"


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


def _pivot(stats, rows, columns, values):
    def plain(index):  # without categories, which admit no further label
        return index if index.nlevels > 1 else pd.Index([*index], dtype=object, name=index.name)

    wide = stats.pivot(index=[*rows], columns=[*columns], values=values)
    wide = wide.sort_index().sort_index(axis=1)
    return wide.set_axis(plain(wide.index)).set_axis(plain(wide.columns), axis=1)


def _stubs(cells):
    return [(name or "").replace("_", " ").capitalize() for name in cells.index.names]


def _strong(cells, bold):
    if bold is None:
        return np.zeros(cells.shape, bool)
    return bold.reindex(index=cells.index, columns=cells.columns, fill_value=False)


def _escaped(key):
    """The key of a row or a column, one text or several, for LaTeX."""
    return tuple(map(_escaped, key)) if isinstance(key, tuple) else str(key).translate(_LATEX)


def _latex_cell(text):
    mean = text.rstrip(_MARKS)
    marks = text[len(mean) :].translate(_LATEX)
    # Marks take no room, or the numbers would no longer line up.
    return mean.translate(_LATEX) + (rf"\rlap{{{marks}}}" if marks else "")


def _markdown_cell(text):
    return re.sub(r"\s*\n\s*", " ", str(text)).replace("|", r"\|")


def _rules(columns):
    """Rules below the spanning headers, which pandas leaves out."""
    rules, column = "", 2
    for _, members in itertools.groupby(columns.get_level_values(0)):
        last = column + len(list(members)) - 1
        rules += rf"\cmidrule(lr){{{column}-{last}}} "
        column = last + 1
    return rules


def _row_names(keys, width):
    """Names of rows; where a group begins, its heading stands on a line of its own above."""
    names, previous = [], None
    for key in keys:
        *group, name = key if isinstance(key, tuple) else (key,)
        above = ""
        if group and group != previous:
            rule = "\\midrule\n" if names else ""
            heading = rf"\multicolumn{{{width}}}{{@{{}}l}}{{\emph{{{group[0]}}}}}"
            above = f"{rule}{heading} \\\\\n"
        names.append(above + name)
        previous = group
    return names
