"""Figures of what protections cost: accuracy against what leaks to attacks that watch a window.

Marks are means over seeds, bars one sample standard deviation. Leak is PSNR above chance, which is
what other training images would score: it differs with the number of images behind a message.
"""

from collections.abc import Iterator

import pandas as pd
from leaks import BITS, DP, KINDS, MARGIN, PROTECTION, UNPROTECTED, of_whom, protection_kind
from marks import draw_point, heading, mark, shades
from matplotlib.figure import Figure
from panels import GREY, PALE, WHOSE, blank_panels, finish, named_panels
from ratio_protection import NOISE, NONE

from fl.experiment import figures, summary
from fl.experiment.layout import count

# Between an axis and the first point, as a share of what is shown.
ROOM = 0.02
# Kind of protection -> its marker, and the head of its column in the legend.
LEGEND = {
    NONE: ("o", UNPROTECTED),
    BITS: ("s", "Fewer bits"),
    NOISE: ("D", "Noise on ratios"),
    DP: ("^", "Differential privacy"),
}


def protection_figures(found: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of accuracy against leak above chance, by what is done to protect.

    Several local steps are something that can be done, too: they mix images.

    Args:
        found: from `leaks.leaks`.
    """
    ways, differing = ["protected", "local_steps"], [*PROTECTION, "local_steps"]
    found = found.assign(
        above=found["leak"] - found["chance"],
        kind=[protection_kind(row) for row in found.to_dict("records")],
    )
    for name, setting, panels in named_panels("leak_protections", found, WHOSE, differing):
        looks = _looks(panels, ways)
        columns = _ways(looks)
        figure, axes = blank_panels(
            len(panels), width=figures.PAGE_WIDTH, legend_rows=1 + max(map(len, columns))
        )
        for axis, (values, panel) in zip(axes, panels, strict=True):
            leak, accuracy = (
                summary.mean_and_std(panel, ways, score) for score in ("above", "final_accuracy")
            )
            for x, y in zip(leak.itertuples(), accuracy.itertuples(), strict=True):
                _, marker, color = looks[x.protected, x.local_steps]
                draw_point(axis, (x.mean, x.std), (y.mean, y.std), marker, color, color)
            axis.margins(0.08)
            low, high = axis.get_xlim()
            low, high = min(-MARGIN / 2, low), max(2 * MARGIN, high)
            axis.set_xlim(low - ROOM * (high - low), high)
            axis.axvspan(axis.get_xlim()[0], MARGIN, color=PALE, linewidth=0, zorder=0)
            axis.axvline(0, color=GREY, linewidth=0.8, zorder=1)
            axis.set_title(of_whom(setting | values), pad=3)
        label = f"PSNR above chance (dB): up to {MARGIN:g}, no leak is claimed"
        finish(figure, setting, label, "Test accuracy (%)", *columns)
        yield name, figure


def _looks(panels, ways):
    """(protected, local steps) -> kind, marker and colour, from pale to dark within a kind."""
    view = pd.concat([panel for _, panel in panels])[["kind", *ways]]
    looks = {}
    for values, rows in summary.groups(view.drop_duplicates().sort_values(ways), ["kind"]):
        marker, _ = LEGEND[values["kind"]]
        for color, way in zip(shades(len(rows)), rows[ways].itertuples(index=False), strict=True):
            plain = tuple(way) == (UNPROTECTED, 1)  # what all others are compared with
            looks[tuple(way)] = values["kind"], marker, "black" if plain else color
    return looks


def _ways(looks):
    """Columns of a legend, one for each kind of protection."""
    columns = []
    for kind in KINDS:
        marker, head = LEGEND[kind]
        entries = [
            (_way(*way), mark(marker, color, color))
            for way, (own, _, color) in looks.items()
            if own == kind
        ]
        columns.append([heading(head), *entries] if entries else [])
    return columns


def _way(protected, steps):
    steps_text = count(steps, "local step")
    if protected == UNPROTECTED:
        return steps_text
    return f"{protected}, {steps_text}" if steps > 1 else protected
