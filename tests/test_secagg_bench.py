"""Secure aggregation's benchmark."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

from secagg import bench, runner


def test_the_benchmark_checks_its_sums_and_counts_all():
    found = bench.measure(bench.Case(8, 50, dropping=0.25))
    assert (found["degree"], found["threshold"]) == (7, 6)
    assert 8 * 50 * 0.75 < 1000 * found["sent_kb"] < 8 * 50 + 4000
    assert found["client_stages_ms"].keys() == set(runner.STAGES)
    assert found["server_stages_ms"].keys() == {*runner.STAGES, "sum"}


def test_the_benchmark_plays_sealed_rounds_and_times_the_pieces():
    found = bench.measure(bench.Case(5, 50, sealed=True))
    assert {"open", "answer"} <= found["server_stages_ms"].keys()
    assert min(bench.pieces(entries=10, threshold=3).values()) > 0
