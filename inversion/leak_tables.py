"""Tables of what leaks to attacks that watch a window of rounds."""

from collections.abc import Iterator

import pandas as pd
from leaks import AGGREGATE, MARGIN, PROTECTION, SETTING, UNPROTECTED, leaks, of_whom
from runs import RUN
from settings import the_attack

from fl.experiment import layout, summary
from fl.experiment.layout import Metric, count
from fl.experiment.names import display_name
from fl.experiment.reports import Table
from fl.experiment.tables import DASH

IMAGES = "Reconstructions"
METRICS = (
    Metric("final_accuracy", "Model", "Accuracy (%)", 100, 1, always=True),
    Metric("leak", IMAGES, "PSNR (dB)", decimals=1, always=True),
    Metric("chance", IMAGES, "Chance", decimals=1, missing=DASH),
    Metric("ceiling", IMAGES, "Gradient", decimals=1, missing=DASH),
    Metric("found", IMAGES, "Images (%)", 100, 0, missing=DASH),
)
# What rows may differ in beside whose messages they are about, and how that is said.
WATCHED = {
    "attack_round": lambda number: f"round {number:,}",
    "window": lambda number: f"window {number:,}",
    "local_steps": lambda number: "" if number == 1 else f"{number} steps",
    "protected": lambda name: "" if name == UNPROTECTED else name,
}
WHOSE = ["clients", "batch_size", "target"]
MIXED = {True: "Aggregate", False: "One client's own messages"}
# The same for all of a table.
SHARED = [name for name in SETTING if name not in (*WHOSE, *WATCHED, *PROTECTION)]
NO_LEAK = "§"
NOTES = {
    "chance": "Chance: other training images, scored the same way",
    "ceiling": "Gradient: what the attack would make of the true gradient",
    "found": "Images: share of the true images that are found at more than 30 dB",
}


def leak_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """What leaks, up to two tables for each attack and setting.

    One by the number of clients, where they are watched as most are; and one by what is watched
    and done, of those of whom that varies.

    Args:
        frame: runs with and without differential privacy, those of other attacks among them.
    """
    for setting, rows in summary.groups(leaks(frame), SHARED):
        most = rows.groupby([*WATCHED], observed=True).size().idxmax()
        usual = (rows[[*WATCHED]] == pd.Series(most, index=WATCHED)).all(axis=1)
        varied = (~usual).groupby([rows[name] for name in WHOSE]).transform("any")
        if not varied[usual].all():
            yield _by_clients(setting, rows[usual])
        if varied.any():
            yield _by_watched(setting, rows[varied])


def _by_clients(setting, rows):
    mixed = (rows["target"] == AGGREGATE) & (rows["clients"] > 1)
    rows = rows.assign(mixed=mixed).sort_values(["batch_size", "mixed", "clients"], kind="stable")
    whom = rows["mixed"].map(MIXED) + ", batch size " + rows["batch_size"].astype(str)
    clients = rows["clients"]
    clients, known = (map("{:,}".format, numbers) for numbers in (clients, sorted(clients)))
    view = rows.assign(whom=summary.ordered(whom), row=summary.ordered(clients, known))
    return _table(setting, view, "clients", list(WATCHED))


def _by_watched(setting, rows):
    varying = [name for name in WATCHED if rows[name].nunique() > 1]
    rows = rows.sort_values([*WHOSE, *varying], kind="stable")
    whom = summary.ordered(of_whom(row) for row in rows.to_dict("records"))
    view = rows.assign(whom=whom, row=_ordered(rows, varying))
    return _table(setting, view, "watched", [name for name in WATCHED if name not in varying])


def _ordered(rows, varying):
    """What is watched of each row, in words, in the order of numbers."""
    known = rows[varying].drop_duplicates().sort_values(varying)

    def words(row):
        text = ", ".join(_said(row, varying)) or UNPROTECTED
        return text[0].upper() + text[1:]

    return summary.ordered(
        map(words, rows.to_dict("records")), map(words, known.to_dict("records"))
    )


def _said(row, names):
    return filter(None, (WATCHED[name](row[name]) for name in names))


def _table(setting, view, heading, common):
    """A table of rows `row` in groups `whom`; `common` is watched or done alike in all of them."""
    cells, stats = layout.lay_out(view, ["whom", "row"], (), METRICS, None, ())
    means = stats.pivot(index=["whom", "row"], columns="metric", values="mean")
    for place in means.index[means["leak"] - means["chance"] < MARGIN]:
        cells.loc[place, (IMAGES, "PSNR (dB)")] += NO_LEAK
    # Where no run has a score its cell says so.
    stats["missing"] = stats["missing"].where(stats["mean"].notna(), 0)
    run = view[~view.index.duplicated()]
    rounds = count(setting["rounds"], "round")
    phrases = layout.describe(setting, rounds)
    phrases += _said(view.iloc[0], common)
    notes = ["PSNR: of reconstructions assigned one to one to the true images of the last rounds"]
    notes += [text for column, text in NOTES.items() if column in set(stats["metric"])]
    if "attack_round" not in common:
        notes.append("Accuracy: after the last round of training")
    if cells.map(lambda text: NO_LEAK in text).any(axis=None):
        notes.append(f"{NO_LEAK}: within {MARGIN:g} dB of chance, where no leak is claimed")
    notes += layout.notes(stats, "without this score", "")
    task = ", ".join(display_name(setting[name]) for name in ("dataset", "model", "algorithm"))
    return Table(
        name=setting["attack"],
        caption=layout.caption(
            f"{task}: reconstruction by the {the_attack(setting)}", run, RUN, phrases, notes
        ),
        cells=cells.rename_axis(index={"whom": "messages", "row": heading}),
        runs=view.index,
    )
