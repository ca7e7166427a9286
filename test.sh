#!/usr/bin/env bash
# Sets everything up, checks the style and runs the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source fl/environment.sh
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/python -m pytest --numprocesses auto --dist loadscope "$@"
