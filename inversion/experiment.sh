#!/usr/bin/env bash
# The paper's section 6.1: gradient inversion attacks on what the server sees.
#
#   bash experiment.sh           the grids of the paper, then figures and tables
#   bash experiment.sh --quick   a small version on the embedded digits, into the folder quick/
#
# Options: --dataset NAME ... and --model NAME ... narrow the grids; --fresh sets the results that
# are there aside and measures anew; --as-published or --as-published=ID,ID restores what the
# published code does otherwise; --plan only says what is left, and about how long it takes; --list
# prints a command line for each run that is left, and --slurm [SBATCH OPTION ...] submits them as
# one array job; anything after -- goes to main.py, such as -- --data-dir DIR.
# Runs that results.csv holds already are skipped, and interrupted ones go on where they were.
#
# On 2 cores of an AMD EPYC: --quick takes two minutes. Fashion-MNIST with lenet: a training 20 to
# 40 s (100 s with DP, of which the grid has 60), an attack on it half a minute, three hours in all,
# and half a day for the attacks that watch a window, which are from half a minute to half an hour each.
# Expect there, as PSNR of the analytic attack: FedAvg 64.5 dB, SecAdam 7.1 dB; and of the adaptive one,
# on SecAdam's aggregates of ten clients with an image each: 45 dB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../fl/experiment/experiment.sh

algorithms=(fedavg adam secadam)
if $quick; then
    small=(--dataset digits --model lenet --num-clients 10 --rounds 60 --attack-steps 200)
    run "${small[@]}" --algorithm "${algorithms[@]}" --attack representation cosine analytic
    run "${small[@]}" --algorithm fedavg --dp 1 0.01
    run --dataset digits --model lenet --algorithm secadam --attack adaptive --attack-clients 0 \
        --num-clients 1 2 --batch-size 1 --rounds 60 --window 40 --pgd-step 0
    run --dataset digits --gen-images --rounds 60 --attack-steps 200
    report
fi

tasks=(--dataset "${datasets[@]}" --seed 0 1 2)
run "${tasks[@]}" --model "${models[@]}" --algorithm "${algorithms[@]}"
run "${tasks[@]}" --model "${models[@]}" --algorithm secadam --perturb
for model in lenet cnn1; do
    if chosen "$model" "${models[@]}"; then
        run "${tasks[@]}" --model "$model" --algorithm "${algorithms[@]}" --idlg
    fi
done
for clip in 0.1 0.5 1 5 10; do
    for noise in 0.001 0.01 0.05 0.1; do
        run "${tasks[@]}" --model "${models[@]}" --algorithm fedavg --dp "$clip" "$noise"
    done
done
# Beyond the paper, because a weak attack proves no privacy.
run "${tasks[@]}" --model "${models[@]}" --algorithm "${algorithms[@]}" --attack cosine cpl
if chosen lenet "${models[@]}"; then
    run "${tasks[@]}" --model lenet --algorithm "${algorithms[@]}" --attack analytic exact
    # One client, and aggregates, watched for a hundred rounds: how many images are mixed; what may
    # protect; when, and for how long. On seeds that the attack was not made on.
    watched=(--dataset "${datasets[@]}" --model lenet --algorithm secadam --attack adaptive \
        --pgd-step 0 --seed 1 2 3 --attack-clients 1)
    run "${watched[@]}" --num-clients 1 2 5 10 20 50 100 --batch-size 1 8 32
    run "${watched[@]}" --num-clients 10 --batch-size 1 8 --algorithm adam
    single=("${watched[@]}" --num-clients 1 --batch-size 1)
    run "${single[@]}" --protect float16 bfloat16 int8 sign noise=0.01 noise=0.1
    run "${single[@]}" --attack-round 1 10 100
    run "${single[@]}" --window 25
    run "${single[@]}" --window 50
    run "${single[@]}" --local-steps 3 10
    # Client-level differential privacy, and the same without it.
    private=("${watched[@]}" --attack-clients 0 --num-clients 100 --rounds 300)
    run "${private[@]}"
    for epsilon in 2 8 50 1000; do
        run "${private[@]}" --window 20 --server-rate 0.01 --dp-epsilon 1 "$epsilon"
    done
    run --dataset "${datasets[@]}" --aggregates --pgd-step 0
fi
run --dataset "${datasets[@]}" --gen-images
if chosen cnn2 "${models[@]}"; then
    run --dataset "${datasets[@]}" --gradcams
fi
report
