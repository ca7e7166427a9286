"""Progress bars."""

import sys

from tqdm import tqdm


def progress_bar(total: int, label: str | None, unit: str, done: int = 0) -> tqdm:
    """Show progress on standard error: a bar on a terminal, a line now and then in a log file.

    Args:
        total: how many units there are.
        label: what is shown beside the bar; None for no bar at all.
        unit: what is counted, in the singular.
        done: how many units were done before.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        disable=label is None,
        mininterval=0.2 if sys.stderr.isatty() else 20.0,
    )
