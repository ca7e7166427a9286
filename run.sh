#!/usr/bin/env bash
# Sets everything up and runs the experiments: quick versions on the embedded digits by default,
# with --full the paper's grids. Further options go to every experiment.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
quick=true
case ${1:-} in
    --help | -h) echo "usage: bash run.sh [--full] [options of experiment.sh]" && exit ;;
    --full) quick=false && shift ;;
    *) set -- --quick "$@" ;;
esac
source fl/environment.sh

# experiment FOLDER TITLE WHAT_IT_SHOWS OPTION...
experiment() {
    printf '\n== %s: %s ==\n%s\n\n' "$1" "$2" "$3" | fold --spaces --width 80
    bash "$1/experiment.sh" "${@:4}"
}

experiment performance "accuracy of private adaptive training" \
    "Ten clients learn under six algorithms. SecAdam, made for secure aggregation, learns \
at least as well as FedAvg." "$@"
experiment inversion "what a curious server can reconstruct" \
    "Attacks on what the server sees. FedAvg's messages give the images away. On SecAdam attacks \
fail that take its ratio for a gradient; a server that knows Adam undoes it (README.md)." "$@"
experiment mitigation "backdoors, defences and certificates" \
    "Poisoned clients plant a backdoor into a SecAdam federation, and defences try to keep it out. \
Of those compared, the ones that stop a lasting attack need what secure aggregation hides." "$@"

if $quick; then
    cat <<'END'

Done. The three most telling figures, each also as .pdf:
  performance/quick/figures/accuracy_digits_lenet_local-steps1_rounds200.png
  inversion/quick/figures/leak_images_digits_lenet_adaptive.png
  mitigation/quick/figures/backdoor_digits_lenet_continuous.png
END
fi
