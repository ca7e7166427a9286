# Sourced by each experiment.sh, in its own folder, with its options as arguments: reads them, names
# the results file, and offers run and report. Sets: python, quick, results, datasets, models, rest,
# published, plan, slurm, batch.

python=${PYTHON:-$(command -v python || command -v python3)}
datasets=(fashion_mnist cifar10 svhn_cropped)
models=(lenet cnn1 cnn2)
quick=false fresh=false plan=() published=() status=0
slurm=false batch=()
while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
        --quick) quick=true ;;
        --fresh) fresh=true ;;
        --plan) plan=(--plan) ;;
        --list) plan=(--list) ;;
        --slurm)
            slurm=true plan=(--list)
            while [ $# -gt 0 ] && [ "$1" != -- ]; do batch+=("$1") && shift; done
            ;;
        --as-published | --as-published=*) published=("$option") ;;
        --dataset | --model)
            values=()
            while [ $# -gt 0 ] && [[ $1 != -* ]]; do values+=("$1") && shift; done
            if [ ${#values[@]} -eq 0 ]; then echo "$option needs a name" >&2 && exit 2; fi
            if [ "$option" = --dataset ]; then
                datasets=("${values[@]}")
            else
                models=("${values[@]}")
            fi
            ;;
        --) break ;;
        # The comment at the head of the script.
        --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$(basename "$0")" && exit ;;
        *) echo "unknown option $option: see --help" >&2 && exit 2 ;;
    esac
done
rest=("$@")

if ! "$python" -c 'import fl, matplotlib' 2>/dev/null; then
    echo "$python lacks what this needs: pip install -r requirements.txt" >&2
    exit 1
fi

results=results.csv
if $quick; then
    mkdir -p quick
    results=quick/results.csv
    if [ ${#plan[@]} -eq 0 ]; then rm -f quick/results.csv quick/results.*.csv; fi
fi
if $slurm && ! command -v sbatch >/dev/null; then
    echo "--slurm needs sbatch, which is not here: is this a machine of the cluster?" >&2
    exit 1
fi
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
asked=$scratch/asked # arguments of the grid's parts, a line each, with --plan and --list
left=$scratch/left   # command lines of the cells that are left
if $fresh && [ -e "$results" ]; then
    aside=${results%.csv}.$(date -u +%Y%m%dT%H%M%SZ)
    mv "$results" "$aside.csv"
    for kind in history curves; do # what belongs to it
        if [ -e "${results%.csv}.$kind.csv" ]; then
            mv "${results%.csv}.$kind.csv" "$aside.$kind.csv"
        fi
    done
    echo "set aside: $aside.csv"
fi

# chosen NAME LIST...: whether a name is among those that the user asked for.
chosen() { [[ " ${*:2} " == *" $1 "* ]]; }

# run ARGUMENT...: a part of the grid. One that fails does not keep the others from running.
run() {
    local arguments=(--results "$results" "$@" "${plan[@]}" "${published[@]}" "${rest[@]}")
    if [ ${#plan[@]} -gt 0 ]; then
        echo "${arguments[@]@Q}" >>"$asked"
        return
    fi
    "$python" main.py --skip-done "${arguments[@]}" || status=$?
    if [ "$status" -eq 130 ]; then exit 130; fi # interrupted
}

# survey: what is left of the parts of the grid, all of them in one process.
survey() {
    "$python" -m fl.experiment.lines main.py <"$asked" || status=$?
    if [ "$status" -eq 130 ]; then exit 130; fi # interrupted
}

# submit: what is left as one array job of SLURM, a task for each command line.
submit() {
    local jobs
    if [ ! -s "$left" ]; then echo "nothing is left" && return; fi
    jobs=$PWD/.jobs/$(date -u +%Y%m%dT%H%M%SZ)-$$
    mkdir -p "$jobs"
    cp "$left" "$jobs/commands"
    sbatch "${batch[@]}" --array="1-$(wc -l <"$jobs/commands")" --output="$jobs/%a.log" \
        --job-name="$(basename "$PWD")" \
        --wrap "sed -n \"\${SLURM_ARRAY_TASK_ID}p\" '$jobs/commands' | bash" || status=$?
    echo "command lines and logs: $jobs"
}

# compare: the paper's figures beside ours, where it has figures of what was run.
compare() {
    local text
    if $quick; then return; fi
    if text=$("$python" result_tables.py --results "$results" --compare); then
        echo "$text" >"$folder/comparison.tex"
        "$python" plot.py --results "$results" --output "$folder/figures" --compare
    fi
}

# report: figures and tables of what is there; ends the script.
report() {
    local folder
    case ${plan[*]} in
        --plan) survey ;;
        --list)
            survey >"$scratch/every"
            awk '!seen[$NF]++' "$scratch/every" >"$left" # a cell of two grids counts once
            if $slurm; then submit; else cat "$left"; fi
            ;;
    esac
    if [ ${#plan[@]} -gt 0 ]; then exit "$status"; fi
    if [ -e "$results" ]; then
        folder=$PWD/$(dirname "$results")
        folder=${folder%/.}
        "$python" plot.py --results "$results" --output "$folder/figures"
        "$python" result_tables.py --results "$results" >"$folder/tables.tex"
        compare
        echo "Results: $folder/results.csv"
        echo "Figures: $folder/figures/"
        echo "Tables:  $folder/tables.tex"
    fi
    exit "$status"
}
