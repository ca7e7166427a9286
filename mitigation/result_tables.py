"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

A table for each attack: accuracy and certified accuracy of the model at the end, attack success
right after the attack and at the end, and the rounds until it is gone, by defence. The options
--one-shot and so on narrow the tables down. Runs that differ in more than their seed are never
averaged.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from attacks import ATTACKS
from defences import AGGREGATOR, DEFENCES, of_kind, parts
from paper_figures import PAPER
from runs import RUN

from fl.experiment import ablation, comparison, layout, reports, summary
from fl.experiment.layout import Metric, count
from fl.experiment.names import display_name
from fl.experiment.reports import Table

# The same for all runs in a table.
SETTING = [
    *("attack", "algorithm", "start_round", "rounds", "local_steps", "batch_size", "alpha"),
    *("partition", "variant", "departures", "overrides"),
]
TASK = ["dataset", "model", "clients"]
PUBLISHED = "100 clients (75 with CNN2), batch size 32, and an attack after 2,000 of 3,000 rounds"
EPS = "\N{GREEK SMALL LETTER EPSILON}"
MODEL, SUCCESS = "Accuracy (%)", "Attack success (%)"
METRICS = (
    Metric("final_accuracy", MODEL, "Final", 100, 1, always=True),
    Metric("certified_accuracy", MODEL, "Certified", 100, 1),
    Metric("first_asr", SUCCESS, "First", 100, 1),
    Metric("final_asr", SUCCESS, "Final", 100, 1, always=True),
    Metric("certified_asr", SUCCESS, "Certified", 100, 1),
    Metric("recovery_rounds", "Recovery", "Rounds", 1, 1),
)
RADIUS = Metric("median_radius", "", "Median radius", decimals=4)
NEEDS = ["status", *(metric.column for metric in METRICS)]


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=3000 seed=0")
    attacks = {name: entry.title for name, entry in ATTACKS.items() if entry.adversaries}
    reports.add_choices(parser, "attack", attacks)
    defences = {name: f"no defence, and {entry.title}" for name, entry in DEFENCES.items()}
    reports.add_choices(parser, "defence", defences)
    parser.add_argument(
        "--aggregators", action="store_true", help="only no defence, and robust aggregators"
    )
    reports.add_table_options(parser)
    options, frame = reports.load(parser, RUN, NEEDS)
    if options.compare:
        comparison.show(frame, PAPER, "mitigation", options)
        return
    if options.ablate:
        ablation.show(frame, PAPER, "mitigation", options, [RADIUS])
        return
    paper = reports.read_paper(options.paper, PAPER.keys)
    found = list(attack_tables(frame[_wanted(frame, options)], paper))
    hint = "try without a choice of attacks and defences"
    reports.show(found, frame, "mitigation", options, hint)


def _wanted(frame, options):
    """Mask of the runs that the options ask for."""
    mask = pd.Series(True, index=frame.index)
    if options.attack:
        mask &= frame["attack"].isin(options.attack)
    defences = [*options.defence, *(of_kind(AGGREGATOR) if options.aggregators else [])]
    if defences:
        mask &= frame["defence"].isin(["none", *defences])
    return mask


def attack_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores of defences by data set and model, a table for each attack and setting.

    Args:
        frame: finished runs.
        paper: published figures, or None.
    """
    frame = in_order(frame.assign(attack=summary.ordered(frame["attack"], ATTACKS)))
    for setting, view in summary.groups(frame.sort_values("attack", kind="stable"), SETTING):
        tasks = [layout.task_name(row) for row in view[TASK].to_dict("records")]
        view = view.assign(task=summary.ordered(tasks), defence_name=defence_names(view))
        cells, stats = layout.lay_out(
            view, ["task", "defence_name"], [], METRICS, paper, PAPER.keys
        )
        what = f"{display_name(setting['algorithm'], short=True)} under "
        what += ATTACKS[setting["attack"]].title
        notes = [*_certified(view, stats), *layout.notes(stats, "without this score", PUBLISHED)]
        phrases = layout.describe(setting, _rounds(setting))
        yield Table(
            name=setting["attack"].replace("_", "-"),
            caption=layout.caption(what, view, RUN, phrases, notes),
            cells=cells.rename_axis(index={"defence_name": "defence"}),
            runs=view.index,
        )


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort runs by task, defence and eps."""
    frame = frame.assign(defence=summary.ordered(frame["defence"], ["none", *DEFENCES]))
    by = ["dataset", "model", "clients", "defence", "eps", "adversaries", "delta"]
    return frame.sort_values(by, kind="stable", na_position="first")


def defence_names(frame: pd.DataFrame) -> pd.Categorical:
    """Names for display of the defences of runs, with eps and what else tells them apart."""
    names = []
    for row in frame[["defence", "eps"]].to_dict("records"):
        name = " + ".join(entry.title for entry in parts(row["defence"])) or "None"
        eps = "" if pd.isna(row["eps"]) else f", {EPS} = {row['eps']:g}"
        names.append(name + eps)
    for column, form in (("adversaries", "{:g} adversaries"), ("delta", "delta = {:g}")):
        keys = ["dataset", "model", "clients", "defence", "eps"]
        several = frame.groupby(keys, dropna=False)[column].transform("nunique") > 1
        names = [
            f"{name}, {form.format(value)}" if differs else name
            for name, value, differs in zip(names, frame[column], several, strict=True)
        ]
    return summary.ordered(names)


def _rounds(setting):
    rounds = count(setting["rounds"], "round")
    if ATTACKS[setting["attack"]].adversaries is None:
        return rounds
    return f"attacked after {setting['start_round']:,} of {rounds}"


def _certified(view, stats):
    if "certified_accuracy" in set(stats["metric"]):
        delta = sorted(view["delta"].dropna().unique())
        radius = f"{delta[0]:g}" if len(delta) == 1 else f"{EPS} (without one: {EPS} = 0.1)"
        yield f"Certified: at a radius of at least {radius}"


if __name__ == "__main__":
    main()
