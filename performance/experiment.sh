#!/usr/bin/env bash
# The paper's section 6.2: accuracy of private adaptive training.
#
#   bash experiment.sh           both grids of the paper, then figures and tables
#   bash experiment.sh --quick   a small version on the embedded digits, into the folder quick/
#
# Options: --dataset NAME ... and --model NAME ... narrow the grids; --fresh sets the results that
# are there aside and measures anew; --as-published or --as-published=ID,ID restores what the
# published code does otherwise; --plan only says what is left, and about how long it takes; --list
# prints a command line for each run that is left, and --slurm [SBATCH OPTION ...] submits them as
# one array job; anything after -- goes to main.py, such as -- --data-dir DIR.
# Runs that results.csv holds already are skipped, and interrupted ones go on where they were.
#
# On 2 cores of an Intel Xeon: --quick takes under a minute; Fashion-MNIST with lenet 8 minutes (18
# runs of 3,000 rounds); a run of cnn1 about 40 minutes.
# Expect, on Fashion-MNIST with lenet: FedAvg 86.3 %, SecAdam 88.2 %.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../fl/experiment/experiment.sh

algorithms=(fedavg adam fedadam secagg secadam secadam_fedadam)
# Sums in the clear: secure aggregation changes no number beyond quantisation, and takes a quarter
# of a second a round. README.md has the commands of the runs under the protocol.
grid=(--efficient --seed 0 1 2)
if $quick; then
    grid+=(--dataset digits --model lenet)
    run "${grid[@]}" --algorithm "${algorithms[@]}" --rounds 200 --evaluate-every 20
    run "${grid[@]}" --algorithm fedavg secadam --local-steps 4 --step-budget 200
    # A few rounds of the protocol itself.
    run --dataset digits --model lenet --algorithm secadam --rounds 20 --evaluate-every 20
    report
fi
run "${grid[@]}" --dataset "${datasets[@]}" --model "${models[@]}" \
    --algorithm "${algorithms[@]}" --rounds 3000
if chosen cifar10 "${datasets[@]}" && chosen cnn1 "${models[@]}"; then
    run "${grid[@]}" --dataset cifar10 --model cnn1 --algorithm "${algorithms[@]}" \
        --alpha 0.1 0.5 1 10 --local-steps 1 2 3 4 5 10 15 20 25 30 --step-budget 3000
fi
report
