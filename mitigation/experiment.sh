#!/usr/bin/env bash
# The paper's section 6.3: backdoors in a SecAdam federation, defences, certificates.
#
#   bash experiment.sh           the grid of the paper and robust aggregators, figures and tables
#   bash experiment.sh --quick   a small version on the embedded digits, into the folder quick/
#
# Options: --dataset NAME ... and --model NAME ... narrow the grids; --fresh sets the results that
# are there aside and measures anew; --as-published or --as-published=ID,ID restores what the
# published code does otherwise; --plan only says what is left, and about how long it takes; --list
# prints a command line for each run that is left, and --slurm [SBATCH OPTION ...] submits them as
# one array job; anything after -- goes to main.py, such as -- --data-dir DIR.
# Runs that results.csv holds already are skipped, and interrupted ones go on where they were.
#
# On 2 cores of an AMD EPYC: --quick takes about a minute. Fashion-MNIST with lenet: the paper's grid
# 5 minutes for each of three defences and three seeds, the aggregators 11 to 20 minutes each.
# Expect there, without defence: the continuous attack succeeds on 100 % of the images, the one-shot
# attack on 100 % of them for a single round.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../fl/experiment/experiment.sh

attacks=(continuous one_shot)
aggregators=(median trimmed_mean multi_krum norm_bounding geometric_median foolsgold)
if $quick; then
    run --dataset digits --model lenet --num-clients 10 --rounds 150 --start-round 100 \
        --evaluate-every 10 --smoothed-models 200 --attack "${attacks[@]}" \
        --defence none noise_clip median multi_krum
    report
fi
tasks=(--dataset "${datasets[@]}" --model "${models[@]}" --attack "${attacks[@]}")
run "${tasks[@]}" --seed 0 1 2 --defence none noise_clip
run "${tasks[@]}" --seed 0 1 2 --defence pgd --eps 0.01 0.1 0.5 1
# Beyond the paper, because the field compares against them.
run "${tasks[@]}" --defence "${aggregators[@]}"
report
