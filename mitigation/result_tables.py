"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

A table for each attack: accuracy and certified accuracy of the model at the end, attack success
right after the attack and at the end, and the rounds until it is gone, by defence. The options
--one-shot and so on narrow the tables down. Runs that differ in more than their seed are never
averaged.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from schema import RUN

from fl.experiment import reports, summary, tables
from fl.experiment.reports import Metric, Table, count

# The same for all runs in a table.
SETTING = [
    *("attack", "algorithm", "start_round", "rounds", "local_steps", "batch_size", "alpha"),
    *("partition", "variant", "overrides"),
]
TASK = ["dataset", "model", "clients"]
PAPER = ["dataset", "model", "attack", "defence", "eps"]
ATTACKS = {
    "none": "no attack",
    "continuous": "a continuous attack",
    "one_shot": "a one-shot attack",
}
AGGREGATORS = {
    "median": "Median",
    "trimmed_mean": "Trimmed mean",
    "multi_krum": "Multi-Krum",
    "norm_bounding": "Norm bounding",
    "geometric_median": "Geometric median",
    "foolsgold": "FoolsGold",
}
DEFENCES = {
    "none": "None",
    "noise_clip": "Clip and noise",
    "pgd": "PGD",
    "flip": "FLIP",
    **AGGREGATORS,
}
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
NEEDS = ["status", *(metric.column for metric in METRICS)]


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=3000 seed=0")
    attacks = parser.add_mutually_exclusive_group()
    attacks.add_argument("--one-shot", action="store_true", help="the one-shot attack alone")
    attacks.add_argument("--continuous", action="store_true", help="the continuous attack alone")
    parser.add_argument("--pgd", action="store_true", help="only without defence, and with PGD")
    parser.add_argument(
        "--noise-clip", action="store_true", help="only without defence, and with clip and noise"
    )
    parser.add_argument(
        "--aggregators", action="store_true", help="only without defence, and robust aggregators"
    )
    reports.add_table_options(parser)
    options = parser.parse_args()
    frame = reports.load(parser, options, RUN, NEEDS)
    paper = reports.read_paper(options.paper, PAPER)
    found = list(attack_tables(frame[_wanted(frame, options)], paper))
    if not found:
        sys.exit("no such runs: try without --one-shot, --continuous, --pgd, ...")
    print("\n".join(reports.typeset(found, "mitigation", options.markdown, bold=False)), end="")
    if left_out := reports.count_left_out(frame, found):
        print(f"note: {left_out} other runs", file=sys.stderr)


def _wanted(frame, options):
    """Mask of the runs that the options ask for."""
    mask = pd.Series(True, index=frame.index)
    for name in ("one_shot", "continuous"):
        if getattr(options, name):
            mask &= frame["attack"] == name
    defences = [name for name in ("pgd", "noise_clip") if getattr(options, name)]
    defences += list(AGGREGATORS) if options.aggregators else []
    if defences:
        mask &= frame["defence"].isin(["none", *defences])
    return mask


def attack_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores of defences by data set and model, a table for each attack and setting.

    Args:
        frame: finished runs.
        paper: published figures, or None.
    """
    order = {"attack": list(ATTACKS)}
    order |= {name: tables.display_order(frame[name]) for name in ("dataset", "model")}
    order |= {"defence": list(DEFENCES)}
    frame = frame.assign(run=frame.index).sort_values("eps", kind="stable", na_position="first")
    frame = summary.in_order(frame, order).set_index("run")
    for setting, rows in summary.groups(frame, SETTING):
        view = rows.assign(task=_tasks(rows), name=defence_names(rows))
        cells, shown = reports.metric_cells(view, ["task", "name"], METRICS, paper, PAPER)
        yield Table(
            name=setting["attack"].replace("_", "-"),
            caption=_caption(view, setting, shown),
            cells=cells.rename_axis(index=["task", "defence"]),
            runs=view.index,
        )


def defence_names(frame: pd.DataFrame) -> list[str]:
    """Names for display of the defences of runs, with eps and what else tells them apart."""
    names = []
    for row in frame[["defence", "eps"]].to_dict("records"):
        name = " + ".join(DEFENCES.get(part, part) for part in row["defence"].split("+"))
        eps = "" if pd.isna(row["eps"]) else f", {EPS} = {row['eps']:g}"
        names.append(name + eps)
    for column, form in (("adversaries", "{:g} adversaries"), ("delta", "delta = {:g}")):
        keys = ["dataset", "model", "clients", "defence", "eps"]
        several = frame.groupby(keys, dropna=False)[column].transform("nunique") > 1
        names = [
            f"{name}, {form.format(value)}" if differs else name
            for name, value, differs in zip(names, frame[column], several, strict=True)
        ]
    return names


def _tasks(frame):
    return [
        f"{tables.display_name(row['dataset'], short=True)}, "
        f"{tables.display_name(row['model'], short=True)}, {count(row['clients'], 'client')}"
        for row in frame[TASK].to_dict("records")
    ]


def _caption(view, setting, shown):
    identity = [name for name in RUN if name != "seed"]
    several = view.groupby(identity, dropna=False).size().max() > 1
    spread = " (standard deviation)" if several else ""
    algorithm = tables.display_name(setting["algorithm"], short=True)
    what = f"{algorithm} under {ATTACKS.get(setting['attack'], setting['attack'])}"
    phrases = [
        count(setting["rounds"], "round"),
        f"batch size {setting['batch_size']}",
        reports.describe_partition(setting),
        f"{setting['variant']} variant",
    ]
    if setting["attack"] != "none":
        phrases.insert(0, f"Attacked after {count(setting['start_round'], 'round')} of")
        phrases[:2] = [" ".join(phrases[:2])]
    if setting["local_steps"] > 1:
        phrases.append(f"{setting['local_steps']} local steps a round")
    if pd.notna(setting["overrides"]):
        phrases.append(setting["overrides"])
    sentences = [
        f"{what}: mean{spread} over {reports.describe_seeds(view, RUN)}",
        ", ".join(phrases),
        *_notes(view, shown),
    ]
    return ". ".join(sentences) + "."


def _notes(view, shown):
    columns = {metric.column for metric in shown}
    if "certified_accuracy" in columns:
        delta = sorted(view["delta"].dropna().unique())
        radius = f"{delta[0]:g}" if len(delta) == 1 else f"{EPS} (without one: {EPS} = 0.1)"
        yield f"Certified: at a radius of at least {radius}"
    stats = pd.concat(shown.values())
    if stats["diverged"].any():
        yield "Each † stands for a run that diverged and is left out of the mean"
    if (stats["source"] != "").any():
        yield (
            "Rows marked paper: as published, for 100 clients (75 with CNN2), batch size 32, and "
            "an attack after 2,000 of 3,000 rounds"
        )


if __name__ == "__main__":
    main()
