#!/usr/bin/env bash
# Sets everything up, checks the style and runs the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source fl/environment.sh
.venv/bin/ruff check
.venv/bin/ruff format --check
# The tests compile far more than they compute: these halve it. What XLA is given is the same, and
# `XLA_FLAGS= bash test.sh` makes of it what users have.
export XLA_FLAGS=${XLA_FLAGS---xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false}
# The workers are as many as the cores: LAPACK's own threads would spend most of the time waiting for
# one another.
export OPENBLAS_NUM_THREADS=1
.venv/bin/python -m pytest --numprocesses auto --dist loadscope "$@"
