"""Print the results as tables for LaTeX (booktabs), or for GitHub with --markdown.

First a table for each attack: accuracy of the trained model, and how close the reconstructions
come, from each client's update and from the aggregate. Then, where there are several attacks, their
PSNR and SSIM side by side. With --dp the grid of clipping bounds and noise, with --idlg the iDLG
attack. Runs that differ in more than their seed are never averaged.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from attacks import ATTACKS
from runs import RUN

from fl.experiment import reports, summary, tables
from fl.experiment.reports import Metric, Table, count

# The same for all runs in a table of one attack, and in one of all attacks.
COMMON = ["rounds", "batch_size", "alpha", "partition", "variant", "overrides"]
SETTING = ["attack", "restarts", *COMMON]
# Clients and the accuracy at which training stops go with data set and model.
TASK = ["dataset", "model", "clients", "converge"]
PAPER = ["dataset", "model", "algorithm", "attack", "clip", "noise"]
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
UPDATE, AGGREGATE = "Each client's update", "Aggregate"


# As many as fit on a page.
METRICS = (
    Metric("final_accuracy", "Model", "Accuracy (%)", 100, 1, always=True),
    Metric("psnr", UPDATE, "PSNR (dB)", decimals=2, always=True),
    Metric("ssim", UPDATE, "SSIM"),
    Metric("cosine", UPDATE, "Cosine"),
    Metric("classifier_distance", UPDATE, "Classifier"),
    Metric("labels_recovered", UPDATE, "Labels (%)", 100, 1),
    Metric("global_psnr", AGGREGATE, "PSNR (dB)", decimals=2),
    Metric("global_ssim", AGGREGATE, "SSIM"),
)
NEEDS = ["status", *(metric.column for metric in METRICS)]


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = reports.command_line(__doc__, Path(__file__).parent, "rounds=750 attack=cosine")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dp", action="store_true", help="differential privacy instead")
    kind.add_argument("--idlg", action="store_true", help="the iDLG attack instead")
    reports.add_table_options(parser)
    options = parser.parse_args()
    frame = reports.load(parser, options, RUN, NEEDS)
    paper = reports.read_paper(options.paper, PAPER)

    plain = frame[~is_private(frame)]
    is_idlg = plain["attack"] == "idlg"
    if options.dp:
        found = list(dp_tables(frame, paper))
    elif options.idlg:
        found = list(main_tables(plain[is_idlg], paper))
    else:
        found = [*main_tables(plain[~is_idlg], paper), *attack_tables(plain, paper)]
    if not found:
        sys.exit(f"no such runs: {_others(options)}")
    print("\n".join(reports.typeset(found, "inversion", options.markdown, bold=False)), end="")
    if left_out := reports.count_left_out(frame, found):
        print(f"note: {left_out} other runs: {_others(options)}", file=sys.stderr)


def is_private(frame: pd.DataFrame) -> pd.Series:
    """Mask of the runs with differential privacy."""
    return frame["algorithm"].str.startswith("dp_")


def main_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores of algorithms by data set and model, a table for each attack and setting.

    Args:
        frame: runs without differential privacy.
        paper: published figures, or None.
    """
    frame = summary.in_order(frame.assign(run=frame.index), {"attack": list(ATTACKS)})
    for setting, rows in summary.groups(frame.set_index("run"), SETTING):
        view = rows.assign(task=_tasks(rows), name=_names(rows["algorithm"]))
        cells, notes = _cells(view, ["task", "name"], METRICS, paper)
        what = f"Reconstruction by the {the_attack(setting)}"
        yield Table(
            name=setting["attack"],
            caption=_caption(what, view, setting, notes),
            cells=cells.rename_axis(index=["task", "algorithm"]),
            runs=view.index,
        )


def dp_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """Scores by clipping bound and noise, beside those without differential privacy.

    Args:
        frame: runs with and without differential privacy.
        paper: published figures, or None.
    """
    for setting, rows in summary.groups(frame, [*TASK, *SETTING]):
        reference = rows[~is_private(rows)]
        reference = reference.assign(
            clipping="Without DP", deviation=_names(reference["algorithm"])
        )
        for values, grid in summary.groups(rows[is_private(rows)], ["algorithm"]):
            grid = grid.sort_values(["clip", "noise"], kind="stable")
            grid = grid.assign(
                clipping=grid["clip"].map("C = {:g}".format),
                deviation=grid["noise"].map((SIGMA + " = {:g}").format),
            )
            view = pd.concat([reference, grid])
            cells, notes = _cells(view, ["clipping", "deviation"], METRICS, paper)
            algorithm = tables.display_name(values["algorithm"])
            what = (
                f"{_task(setting)}: {algorithm} under the {the_attack(setting)}, by the "
                f"clients' clipping bound C and noise deviation {SIGMA}"
            )
            yield Table(
                name=f"dp-{setting['dataset']}-{setting['model']}",
                caption=_caption(what, view, setting, notes),
                cells=cells.rename_axis(index=["clipping", "noise"]),
                runs=view.index,
            )


def attack_tables(frame: pd.DataFrame, paper: pd.DataFrame | None) -> Iterator[Table]:
    """PSNR and SSIM of attacks by algorithm, a table for each setting with several attacks.

    Args:
        frame: runs without differential privacy.
        paper: published figures, or None.
    """
    for setting, rows in summary.groups(frame, COMMON):
        if rows["attack"].nunique() < 2:
            continue
        order = {name: rows[name].unique() for name in TASK} | {"attack": list(ATTACKS)}
        view = summary.in_order(rows.assign(run=rows.index), order)
        attacks = [_attack(row) for row in view.to_dict("records")]
        view = view.assign(task=_tasks(view), name=attacks).set_index("run")
        algorithms = tables.display_order(view["algorithm"])
        # More columns would not fit on a page.
        wanted = METRICS[1:3] if len(algorithms) <= 4 else METRICS[1:2]
        parts, notes = [], []
        for algorithm in algorithms:
            span = tables.display_name(algorithm, short=True)
            metrics = [
                metric._replace(span=span, decimals=metric.decimals - 1) for metric in wanted
            ]
            own = view[view["algorithm"] == algorithm]
            cells, more = _cells(own, ["task", "name"], metrics, paper)
            parts.append(cells)
            notes += more
        held = set().union(*(part.index for part in parts))
        keys = view[["task", "name"]].drop_duplicates().itertuples(index=False, name=None)
        both = [(task, name + source) for task, name in keys for source in ("", reports.PUBLISHED)]
        index = pd.MultiIndex.from_tuples([key for key in both if key in held])
        cells = pd.concat([part.reindex(index) for part in parts], axis=1).fillna(tables.DASH)
        yield Table(
            name="attacks",
            caption=_caption(
                "Reconstruction by several attacks", view, setting, dict.fromkeys(notes)
            ),
            cells=cells.rename_axis(index=["task", "attack"]),
            runs=view.index,
        )


def _cells(view, rows, metrics, paper):
    """Lay out a column for each metric that has values; also say what the reader must know.

    Args:
        view: runs.
        rows: columns of names: group and row.
        metrics: of `METRICS`.
        paper: published figures, or None.
    """
    cells, shown = reports.metric_cells(view, rows, metrics, paper, PAPER)
    return cells, list(_notes(shown))


def _notes(shown):
    names = {metric.column for metric in shown}
    stats = pd.concat(shown.values())
    if "labels_recovered" in names:
        yield "Labels: share of the true labels that the attacker infers"
    if "classifier_distance" in names:
        yield "Classifier: cosine distance between a separate classifier's outputs"
    if "global_psnr" in names:
        yield f"{AGGREGATE}: the attack on the mean over all clients, scored against all images"
    if stats["diverged"].any():
        yield "Each † stands for a run that diverged and is left out of the mean"
    if stats["missing"].any():
        yield (
            "Each ‡ stands for a run without this score, such as one where no label was "
            "recovered, left out of the mean"
        )
    if (stats["source"] != "").any():
        yield (
            "Rows marked paper: as published, for 100 clients (75 with CNN2), batch size 8 "
            "(iDLG: 1) and 750 rounds"
        )


def _caption(what, view, setting, notes):
    identity = [name for name in RUN if name != "seed"]
    several = view.groupby(identity, dropna=False).size().max() > 1
    spread = " (standard deviation)" if several else ""
    rounds = count(setting["rounds"], "round")
    phrases = [
        f"Batch size {setting['batch_size']}",
        reports.describe_partition(setting),
        f"{setting['variant']} variant",
        f"at most {rounds}" if view["converge"].notna().any() else rounds,
    ]
    if pd.notna(setting["overrides"]):
        phrases.append(setting["overrides"])
    sentences = [
        f"{what}: mean{spread} over {reports.describe_seeds(view, RUN)}",
        ", ".join(phrases),
        "The higher PSNR and SSIM, the more of the images leaks",
    ]
    return ". ".join([*sentences, *notes]) + "."


def _attack(setting):
    return _title(setting["attack"]) + _restarts(setting)


def the_attack(setting: dict) -> str:
    """Name an attack, and how often it restarts, within a sentence."""
    name = _title(setting["attack"])
    name = name if name[1:] != name[1:].lower() else name.lower()  # iDLG and CPL stay
    return f"{name} attack{_restarts(setting)}"


def _title(name):
    return ATTACKS[name].title if name in ATTACKS else name


def _restarts(setting):
    number = setting["restarts"]
    many = pd.notna(number) and number > 1
    return f" ({count(int(number), 'restart')})" if many else ""


def _tasks(frame):
    return [_task(row) for row in frame[TASK].to_dict("records")]


def _task(setting):
    names = [tables.display_name(setting[name], short=True) for name in ("dataset", "model")]
    text = f"{', '.join(names)}, {count(setting['clients'], 'client')}"
    if pd.notna(setting["converge"]):
        text += f", trained until {100 * setting['converge']:.4g}% accuracy"
    return text


def _names(algorithms: Sequence[str]) -> list[str]:
    return [tables.display_name(name, short=True) for name in algorithms]


def _others(options):
    given = options.dp or options.idlg
    return "try without --dp and --idlg" if given else "try --dp or --idlg"


if __name__ == "__main__":
    main()
