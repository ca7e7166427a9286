#!/usr/bin/env bash
# Sets everything up and runs the experiments: quick versions on the embedded digits by default,
# with --full the paper's grids. Further options go to every experiment.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case ${1:-} in
    --help | -h) echo "usage: bash run.sh [--full] [options of experiment.sh]" && exit ;;
    --full) shift ;;
    *) set -- --quick "$@" ;;
esac
source environment.sh
for experiment in */experiment.sh; do
    bash "$experiment" "$@"
done
