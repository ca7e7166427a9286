"""Results files: nothing appended is lost, nothing cut off is read, and statistics are right."""

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.experiment import results

COLUMNS = ["algorithm", "seed", "accuracy", "hardware", "date"]
DATE = "2026-11-22T10:53:50Z"
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"

APPENDER = """
import itertools, sys
from fl.experiment import results, summary, tables
path, name, count = sys.argv[1:]
columns = ["algorithm", "seed", "accuracy", "hardware", "date"]
print("ready", flush=True)
sys.stdin.readline()
for seed in range(int(count)) if count != "forever" else itertools.count():
    row = {"algorithm": name, "seed": seed, "accuracy": seed / 7, "hardware": 'a "b", c' * 9}
    results.append(path, [row | {"date": "2026-11-22T10:53:50Z"}], columns)
    print(seed, flush=True)
"""


def row(**values):
    return {"algorithm": "fedavg", "seed": 0, "accuracy": 0.5, "hardware": "CPU", "date": DATE} | (
        values
    )


def start_appender(path, name, count, **options):
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, path, name, str(count)],
        stdin=subprocess.PIPE,
        text=True,
        **options,
    )


def read_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return results.read(path)


# --- appending -------------------------------------------------------------------------------


def test_two_processes_at_once_lose_nothing(tmp_path):
    path = tmp_path / "results.csv"
    processes = [start_appender(path, name, 200, stdout=subprocess.PIPE) for name in "ab"]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    frame = results.read(path)
    assert {name: list(part["seed"]) for name, part in frame.groupby("algorithm")} == {
        "a": list(range(200)),
        "b": list(range(200)),
    }
    assert path.read_text().count("date") == 1, "one header"


def test_a_killed_process_leaves_whole_rows_and_no_lock(tmp_path):
    path = tmp_path / "results.csv"
    with start_appender(path, "a", "forever", stdout=subprocess.PIPE) as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        reported = [process.stdout.readline() for _ in range(50)][-1]
        process.send_signal(signal.SIGKILL)
    results.append(path, [row(algorithm="b")], COLUMNS)
    frame = results.read(path)
    assert frame["algorithm"].iloc[-1] == "b"
    seeds = list(frame["seed"][:-1])
    assert seeds == list(range(len(seeds)))
    assert len(seeds) > int(reported)


def test_a_row_cut_off_anywhere_stays_in_the_file_and_is_not_read(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(), row(seed=1, hardware='a, "b"\nc é')], COLUMNS)
    whole = path.read_bytes()
    start = whole.index(b"\nfedavg,1") + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        results.append(path, [row(seed=2), row(seed=3, hardware="x\ny")], COLUMNS)
        newline = b"" if whole[:end].endswith(b"\n") else b"\n"
        assert path.read_bytes().startswith(whole[:end] + newline + b"fedavg,2,")
        # The last byte is the newline: without it the row is complete.
        expected = [0, 1, 2, 3] if end == len(whole) - 1 else [0, 2, 3]
        assert list(read_quietly(path)["seed"]) == expected


def test_the_warning_names_file_and_line(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(), row(seed=1)], COLUMNS)
    path.write_bytes(path.read_bytes()[:-2])  # the date lacks its Z: all the commas are there
    with pytest.warns(UserWarning, match=re.escape(f"{path}, line 3:")):
        frame = results.read(path)
    assert list(frame["seed"]) == [0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (COLUMNS[1:], "missing: algorithm)"),
        ([*COLUMNS[:2], "extra", *COLUMNS[2:]], "unknown: extra)"),
        (["x", "date"], "missing: algorithm, seed, accuracy, hardware; unknown: x)"),
        ([*COLUMNS[1::-1], *COLUMNS[2:]], "another order"),
    ],
)
def test_other_columns_change_nothing_and_the_row_is_rescued(tmp_path, columns, words):
    path = tmp_path / "results.csv"
    results.append(path, [dict.fromkeys(columns, "v") | {"date": DATE}], columns)
    before = path.read_bytes()
    with pytest.raises(results.ResultsError, match=re.escape(words)) as at_check:
        results.check(path, COLUMNS)
    assert str(path) in str(at_check.value)
    assert "--results OTHER.csv" in str(at_check.value)
    for number in (1, 2):
        rescued = tmp_path / f"results.rescued-{number}.csv"
        with pytest.raises(results.ResultsError, match=re.escape(str(rescued))):
            results.append(path, [row(seed=number)], COLUMNS)
        assert list(results.read(rescued)["seed"]) == [number]
    assert path.read_bytes() == before


def test_rows_that_cannot_be_written_are_in_the_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as error:
        results.append(tmp_path / "file" / "results.csv", [row(seed=77)], COLUMNS)
    assert "fedavg,77," in error.value.__notes__[0]


def test_a_full_disk_raises_and_harms_no_earlier_row(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.append(path, [row()], COLUMNS)
    write = os.write
    room = [10]

    def fill_up(descriptor, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", fill_up)
    with pytest.raises(OSError, match="No space left"):
        results.append(path, [row(seed=1)], COLUMNS)
    monkeypatch.undo()
    results.append(path, [row(seed=1)], COLUMNS)
    assert list(read_quietly(path)["seed"]) == [0, 1]


def test_an_empty_file_gets_a_header(tmp_path):
    path = tmp_path / "results.csv"
    path.touch()
    results.check(path, COLUMNS)
    results.append(path, [row()], COLUMNS)
    assert list(results.read(path).columns) == COLUMNS


def test_no_rows_make_no_file(tmp_path):
    results.append(tmp_path / "results.csv", [], COLUMNS)
    assert not (tmp_path / "results.csv").exists()


def test_an_unknown_key_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="extra"):
        results.append(tmp_path / "results.csv", [row(extra=1)], COLUMNS)


def test_check(tmp_path):
    results.check(tmp_path / "absent.csv", COLUMNS)
    assert not list(tmp_path.iterdir()), "checking leaves nothing behind"
    with pytest.raises(results.ResultsError, match=r"folder .*nowhere does not exist"):
        results.check(tmp_path / "nowhere" / "results.csv", COLUMNS)
    with pytest.raises(results.ResultsError, match="is not a file"):
        results.check(tmp_path, COLUMNS)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_check_of_what_cannot_be_written(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row()], COLUMNS)
    path.chmod(0o400)
    with pytest.raises(results.ResultsError, match=r"results\.csv cannot be written"):
        results.check(path, COLUMNS)
    path.chmod(0o600)
    tmp_path.chmod(0o500)
    with pytest.raises(results.ResultsError, match="cannot be written"):
        results.check(path, COLUMNS)
    tmp_path.chmod(0o700)


# --- reading ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(),
            st.one_of(st.none(), st.floats()),
            st.integers(-(2**63), 2**63 - 1),
            st.sampled_from([",", '"', "\n", "\r\n", '",\n"', "", "007", "nan", " "]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_appended_reads_back(rows):
    columns = ["hardware", "value", "count", "version", "date"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.csv"
        for values in rows:
            results.append(path, [dict(zip(columns, (*values, DATE), strict=True))], columns)
        frame = results.read(path)
    assert len(frame) == len(rows)
    for name, expected in zip(columns, zip(*rows, strict=True), strict=False):
        for got, value in zip(frame[name], expected, strict=True):
            if value in (None, "") or value != value:
                assert pd.isna(got)
            else:
                assert got == value
                assert isinstance(got, str) == isinstance(value, str)


def test_types_of_columns(tmp_path):
    path = tmp_path / "results.csv"
    columns = ["ints", "holes", "text", "zip", "flag", "empty", "scalar", "version", "date"]
    rows = [
        (1, 1, "a", "007", True, None, np.float32(0.1), "0.1", DATE),
        (2, math.nan, "1", "1", False, "", np.int64(3), "0.2", DATE),
    ]
    results.append(path, [dict(zip(columns, values, strict=True)) for values in rows], columns)
    frame = results.read(path)
    assert frame["ints"].dtype == np.int64
    assert frame["holes"].dtype == float
    assert list(frame["text"]) == ["a", "1"]
    assert list(frame["zip"]) == ["007", "1"]
    assert list(frame["flag"]) == [True, False]
    assert frame["flag"].dtype == bool
    assert frame["empty"].isna().all()
    assert list(frame["scalar"]) == [float(np.float32(0.1)), 3]
    assert list(frame["version"]) == ["0.1", "0.2"]


def test_absent_and_unfit_files(tmp_path):
    path = tmp_path / "results.csv"
    assert results.read(path).empty
    with pytest.raises(results.ResultsError, match=r"no results yet in .*experiment\.sh"):
        results.read(path, needs=["seed"])
    results.append(path, [row()], COLUMNS)
    with pytest.raises(results.ResultsError, match="lacks rounds, model"):
        results.read(path, needs=["seed", "rounds", "model"])
    with pytest.raises(results.ResultsError, match="is a folder"):
        results.read(tmp_path)


def test_a_file_that_a_spreadsheet_saved(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(), row(seed=1)], COLUMNS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    results.append(path, [row(seed=2)], COLUMNS)
    assert list(results.read(path)["seed"]) == [0, 1, 2]


def test_history_path():
    assert results.history_path("a/my.results.csv") == Path("a/my.results.history.csv")


def test_matches(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [row(accuracy=0.1 + 0.2), row(seed=1, accuracy=None)], COLUMNS)
    frame = results.read(path)

    def found(**cells):
        return results.matches(frame, cells).tolist()

    assert found(algorithm="fedavg", accuracy=0.3, seed=0.0) == [True, False]
    assert found(accuracy=None, seed="1") == [False, True]
    assert found(accuracy=math.nan) == [False, True]
    assert found(accuracy=None, seed=0) == [False, False]
    assert found(accuracy=0.3001) == [False, False]
    assert found(algorithm="fedadam") == [False, False]
    with pytest.raises(KeyError):
        found(nonsense=1)


# --- provenance --------------------------------------------------------------------


def test_reading_results_needs_no_jax():
    heavy = "('jax', 'fl.simulation.models')"
    code = f"import sys, fl.experiment.results; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
