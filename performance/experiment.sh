#!/usr/bin/env bash
# The paper's section 6.2: accuracy of private adaptive training.
#
#   bash experiment.sh           both grids of the paper, then figures and tables
#   bash experiment.sh --quick   a small version on the embedded digits, into the folder quick/
#
# Options: --dataset NAME ... and --model NAME ... narrow the grids; --fresh sets the results that
# are there aside and measures anew; anything after -- goes to main.py, such as -- --seed 0.
# Runs that results.csv holds already are skipped, and interrupted ones go on where they were.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${PYTHON:-$(command -v python || command -v python3)}

algorithms=(fedavg adam fedadam secagg secadam secadam_fedadam)
datasets=(fashion_mnist cifar10 svhn_cropped)
models=(lenet cnn1 cnn2)
quick=false fresh=false
while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
        --quick) quick=true ;;
        --fresh) fresh=true ;;
        --dataset | --model)
            values=()
            while [ $# -gt 0 ] && [[ $1 != -* ]]; do values+=("$1") && shift; done
            if [ ${#values[@]} -eq 0 ]; then echo "$option needs a name" >&2 && exit 2; fi
            if [ "$option" = --dataset ]; then datasets=("${values[@]}"); else models=("${values[@]}"); fi
            ;;
        --) break ;;
        --help | -h) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit ;;
        *) echo "unknown option $option: see --help" >&2 && exit 2 ;;
    esac
done

results=results.csv
if $quick; then
    mkdir -p quick
    results=quick/results.csv
    rm -f quick/results.csv quick/results.history.csv
fi
if $fresh && [ -e "$results" ]; then
    aside=${results%.csv}.$(date -u +%Y%m%dT%H%M%SZ)
    mv "$results" "$aside.csv"
    mv "${results%.csv}.history.csv" "$aside.history.csv"
    echo "set aside: $aside.csv"
fi

# Sums in the clear: the cryptography changes no number beyond quantisation, and takes its time.
run=("$python" main.py --efficient --skip-done --results "$results" --seed 0 1 2)
status=0
if $quick; then
    "${run[@]}" --dataset digits --model lenet --algorithm "${algorithms[@]}" --rounds 300 \
        --evaluate-every 20 "$@" || status=$?
    "${run[@]}" --dataset digits --model lenet --algorithm fedavg secadam --local-steps 5 \
        --step-budget 300 "$@" || status=$?
else
    "${run[@]}" --dataset "${datasets[@]}" --model "${models[@]}" --algorithm "${algorithms[@]}" \
        --rounds 3000 "$@" || status=$?
    if [[ " ${datasets[*]} " == *" cifar10 "* && " ${models[*]} " == *" cnn1 "* ]]; then
        "${run[@]}" --dataset cifar10 --model cnn1 --algorithm "${algorithms[@]}" \
            --alpha 0.1 0.5 1 10 --local-steps 1 2 3 4 5 10 15 20 25 30 --step-budget 3000 \
            "$@" || status=$?
    fi
fi

if [ -e "$results" ]; then
    folder=$PWD/$(dirname "$results")
    folder=${folder%/.}
    "$python" plot.py --results "$results" --output "$folder/figures"
    "$python" result_tables.py --results "$results" >"$folder/tables.tex"
    echo "Results: $folder/results.csv"
    echo "Figures: $folder/figures/"
    echo "Tables:  $folder/tables.tex"
fi
exit "$status"
