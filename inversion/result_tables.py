"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

First tables for each attack: accuracy of the trained model, and how close the reconstructions
come, beside chance; from each client's update, and from the aggregate. Then, where there are
several attacks, their PSNR side by side. Then what leaks to attacks that watch a window of rounds,
beside chance and the most that they can reach. With --dp the grid of clipping bounds and noise
instead.
Options named after attacks, such as --idlg, narrow the tables down to these. Runs that differ in
more than their seed are never averaged.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import leaks
import pandas as pd
from attacks import ATTACKS
from leak_tables import leak_tables
from paper_figures import PAPER
from runs import RUN
from settings import COMMON, SETTING, SIGMA, TASK, attack_name, is_private, task, tasks, the_attack

from fl.experiment import ablation, comparison, layout, reports, summary
from fl.experiment.layout import Metric, count
from fl.experiment.names import display_name
from fl.experiment.reports import Table

PUBLISHED = "100 clients (75 with CNN2), batch size 8 (iDLG: 1) and 750 rounds"
UPDATE, AGGREGATE = "Each client's update", "Aggregate"
ACCURACY = Metric("final_accuracy", "Model", "Accuracy (%)", 100, 1, always=True)
# In a table each: side by side they would not fit on a page.
OF_UPDATES = (
    Metric("psnr", UPDATE, "PSNR (dB)", decimals=2, always=True),
    Metric("chance_psnr", UPDATE, "Chance", decimals=1),
    Metric("ssim", UPDATE, "SSIM"),
    Metric("cosine", UPDATE, "Cosine"),
    Metric("classifier_distance", UPDATE, "Classifier"),
    Metric("labels_recovered", UPDATE, "Labels (%)", 100, 1),
)
OF_AGGREGATES = (
    Metric("global_psnr", AGGREGATE, "PSNR (dB)", decimals=2),
    Metric("global_chance_psnr", AGGREGATE, "Chance", decimals=1),
    Metric("global_ssim", AGGREGATE, "SSIM"),
)
# What the reader must know of a column.
NOTES = {
    "chance_psnr": (
        "Chance: PSNR of other training images, scored the same way; what is not above it leaks "
        "nothing that is seen"
    ),
    "labels_recovered": "Labels: share of the true labels that the attacker infers",
    "classifier_distance": ("Classifier: cosine distance between a separate classifier's outputs"),
    "global_psnr": (
        f"{AGGREGATE}: the attack on the mean over all clients, an image for each class, which is "
        "scored against the nearest of all images of the class"
    ),
}
SHOWN = [metric.column for metric in (ACCURACY, *OF_UPDATES, *OF_AGGREGATES)]
NEEDS = ["status", *dict.fromkeys([*SHOWN, *leaks.NEEDS])]


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=750 attack=cosine")
    parser.add_argument("--dp", action="store_true", help="differential privacy instead")
    titles = {name: f"the {entry.title} attack" for name, entry in ATTACKS.items()}
    reports.add_choices(parser, "attack", titles)
    reports.add_table_options(parser)
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        comparison.show(frame, PAPER, "inversion", options)
        return
    if options.ablate:
        ablation.show(frame, PAPER, "inversion", options)
        return
    paper = reports.read_paper(options.paper, PAPER.keys)
    frame = frame.assign(attack=summary.ordered(frame["attack"], ATTACKS))
    wanted = frame[frame["attack"].isin(options.attack or list(ATTACKS))]
    single = wanted[wanted["window"].isna()]
    if options.dp:
        found = list(dp_tables(single, paper))
    else:
        plain = single[~is_private(single)]
        found = [*main_tables(plain, paper), *attack_tables(plain, paper), *leak_tables(wanted)]
    hint = "try without --dp" if options.dp else "try --dp, or without a choice of attacks"
    reports.show(found, frame, "inversion", options, hint)


def main_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores of algorithms by data set and model, two tables for each attack and setting.

    Args:
        frame: runs without differential privacy.
        paper: published figures, or None.
    """
    for setting, rows in summary.groups(frame.sort_values("attack", kind="stable"), SETTING):
        view = rows.assign(task=tasks(rows))
        what = f"Reconstruction by the {the_attack(setting)}"
        yield from _both(setting["attack"], what, view, ["task", "algorithm"], setting, paper)


def dp_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores by clipping bound and noise, beside those without differential privacy.

    Args:
        frame: runs with and without differential privacy.
        paper: published figures, or None.
    """
    for setting, rows in summary.groups(frame, [*TASK, *SETTING]):
        for values, grid in summary.groups(rows[is_private(rows)], ["algorithm"]):
            view = pd.concat([rows[~is_private(rows)], grid])
            view = view.sort_values(["clip", "noise"], kind="stable", na_position="first")
            noises = view["noise"].map(f"{SIGMA} = {{:g}}".format)
            names = view["algorithm"].map(partial(display_name, short=True)).astype(str)
            clips = view["clip"].map("C = {:g}".format).mask(view["clip"].isna(), "Without DP")
            view = view.assign(
                clipping=summary.ordered(clips),
                noise_name=summary.ordered(noises.mask(view["noise"].isna(), names)),
            )
            what = (
                f"{task(setting)}: {display_name(values['algorithm'])} under the "
                f"{the_attack(setting)}, by the clients' clipping bound C and noise deviation "
                f"{SIGMA}"
            )
            name = f"dp-{setting['dataset']}-{setting['model']}"
            shared = {column: setting[column] for column in SETTING}
            yield from _both(name, what, view, ["clipping", "noise_name"], shared, paper)


def attack_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """PSNR of attacks beside chance by algorithm, a table for each setting with several attacks.

    Args:
        frame: runs without differential privacy.
        paper: published figures, or None.
    """
    for setting, rows in summary.groups(frame, COMMON):
        if rows["attack"].nunique() < 2:
            continue
        # More columns would not fit on a page.
        shown = ("psnr", "chance_psnr")[: 2 if rows["algorithm"].nunique() <= 4 else 1]
        metrics = [metric for metric in OF_UPDATES if metric.column in shown]
        metrics = [metric._replace(decimals=1) for metric in metrics]
        rows = rows.sort_values(["attack", "restarts"], kind="stable")
        attacks = summary.ordered([attack_name(row) for row in rows.to_dict("records")])
        view = rows.assign(task=tasks(rows), attack_name=attacks)
        what = "Reconstruction by several attacks"
        yield _table(
            "attacks", what, view, ["task", "attack_name"], setting, paper, metrics, ["algorithm"]
        )


def _both(name, what, view, *further):
    """What updates leak, and what aggregates do, where anything is known of it."""
    yield _table(name, what, view, *further, [ACCURACY, *OF_UPDATES])
    if view["global_psnr"].notna().any():
        yield _table(f"{name}-aggregate", what, view, *further, [ACCURACY, *OF_AGGREGATES])


def _table(name, what, view, rows, setting, paper, metrics, columns=()):
    """A table of the runs of a setting: `name` for its label, `what` for its caption."""
    cells, stats = layout.lay_out(view, rows, columns, metrics, paper, PAPER.keys)
    rounds = count(setting["rounds"], "round")
    if view["converge"].notna().any():
        rounds = f"at most {rounds}"
    phrases = layout.describe(setting, rounds)
    if pd.notna(setting["attack_round"]):
        phrases.append(f"attacked in round {int(setting['attack_round']):,}")
    notes = ["The higher PSNR and SSIM, the more of the images leaks"]
    notes += [text for column, text in NOTES.items() if column in set(stats["metric"])]
    notes += layout.notes(
        stats, "without this score, such as one where no label was recovered", PUBLISHED
    )
    return Table(
        name=name,
        caption=layout.caption(what, view, RUN, phrases, notes),
        cells=cells.rename_axis(index={"attack_name": "attack", "noise_name": "noise"}),
        runs=view.index,
    )


if __name__ == "__main__":
    main()
