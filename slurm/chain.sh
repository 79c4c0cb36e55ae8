# shellcheck shell=bash
# The steps that both wrappers share: split, folds, evaluation. What they compute, the scripts compute; here is only the order.
#
# In: the settings of the wrapper as variables, TRAINING (training's options), EXTRA (the wrapper's own arguments).

check_settings() { # What can be refused before a job waits for hours
    local word
    # Before any arithmetic: bash would run a command that stands in a number's place.
    [[ $N_FOLDS =~ ^[1-9][0-9]?$ ]] || fail 2 "N_FOLDS=$N_FOLDS: must be a number from 1 to 99"
    default_input
    follow_split
    for word in MIXED_PRECISION PARALLEL_FOLDS; do
        [[ ${!word} == [01] ]] || fail 2 "$word=${!word}: must be 1 (yes) or 0 (no)"
    done
    for word in "$@"; do
        case ${word%%=*} in
        --data_splits_dir | --train_jsonl | --val_jsonl | --test_jsonl | --exclude_splits_dir | --n_folds | --fold | --output_dir | --base_dir)
            fail 2 "${word%%=*}: set SPLITS_DIR, N_FOLDS, OUTPUT_DIR or BASE_DIR instead, which every step must know" ;;
        --overwrite)
            ((!BATCH)) || fail 2 "--overwrite would discard the run at every requeue: remove $OUTPUT_DIR, or name another" ;;
        esac
    done
    check_array
    check_folders
    [[ -z $BASELINE || -e $BASELINE ]] || fail 2 "BASELINE=$BASELINE is missing"
    [[ -z $BASELINE || -z $BASELINE_L1 ]] || fail 2 "give BASELINE or BASELINE_L1, not both"
    [[ -e $SPLITS_DIR/split_metadata.json || -n $INPUT_JSONL$INPUT_DIR ]] ||
        fail 2 "$SPLITS_DIR holds no split: set INPUT_JSONL or INPUT_DIR, and it will be made (no train_cleaned.jsonl and no" \
            "train.jsonl is here, which would be taken)"
}

check_array() { # A task that is no fold would leave the others waiting for it, and nobody would evaluate
    local first=${SLURM_ARRAY_TASK_MIN:-1} last=${SLURM_ARRAY_TASK_MAX:-1} task=${SLURM_ARRAY_TASK_ID:-}
    [[ -n $task ]] || return 0
    if ! ((task >= 1 && task <= N_FOLDS && first >= 1 && last <= N_FOLDS)); then
        fail 2 "array task $task of $first to $last: folds are counted from 1 to N_FOLDS=$N_FOLDS (sbatch --array=1-$N_FOLDS)"
    fi
}

check_folders() { # What cannot be made is refused before hours of work
    local name place
    for name in SPLITS_DIR OUTPUT_DIR RESULTS_DIR; do
        [[ -n ${!name} ]] || fail 2 "$name is empty: name a folder"
        place=${!name}
        while [[ ! -e $place && ! -L $place ]]; do
            [[ $place == */* ]] || place=./$place
            place=${place%/*}
            place=${place:-/}
        done
        [[ -d $place && -w $place && -x $place ]] ||
            fail 2 "$name=${!name} cannot be made: $place is no folder that can be written"
    done
}

check_device() { # A GPU that cannot be used is told now, not after the preparation
    [[ $DEVICE == cpu ]] || "${interpreter[@]}" "$DARKIR_HOME/slurm/check_device.py" "$DEVICE" || exit
}

choose_python() { # PYTHON may be a path with spaces, or a command with arguments, such as a container's
    if command -v -- "$PYTHON" >/dev/null; then
        interpreter=("$PYTHON")
    else
        read -r -a interpreter <<<"$PYTHON"
        command -v -- "${interpreter[0]}" >/dev/null || fail 2 "PYTHON=$PYTHON: no such program"
    fi
    # Under Slurm the same number of threads wherever the job runs: another one changes the last bits.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-}}
    [[ -n $OMP_NUM_THREADS ]] || unset OMP_NUM_THREADS
}

produced() { # produced FILE: a step that ended well has left it
    is_there "$1" || fail 1 "the step ended with 0, but $1 is not there"
}

make_split() {
    # The first of several jobs or tasks splits, the others wait for it.
    make_folder SPLITS_DIR
    exec 9>>"$SPLITS_DIR/.wrapper.lock" || fail 2 "SPLITS_DIR=$SPLITS_DIR: cannot write .wrapper.lock there"
    local code=0
    until flock --nonblock --conflict-exit-code 7 9 || code=$?; ((code != 7)); do
        [[ -z $signal_received ]] || stop
        sleep 1
        code=0
    done
    ((code == 0)) || say "This file system has no locks ($SPLITS_DIR): start one job at a time until the split is there"
    local input=(--input_jsonl "$INPUT_JSONL") what=Split
    [[ -n $INPUT_JSONL ]] || input=(--input_dir "$INPUT_DIR")
    [[ -z $BASE_DIR || -z $INPUT_JSONL ]] || input+=(--base_dir "$BASE_DIR")
    input+=(--output_dir "$SPLITS_DIR" --test_size "$TEST_SIZE" --n_folds "$N_FOLDS" --seed "$SPLIT_SEED")
    [[ -z $GROUP_KEY ]] || input+=(--group_key "$GROUP_KEY")
    if is_there "$SPLITS_DIR/split_metadata.json"; then
        # It must not stand in for other photos or settings: compared by content, wherever and however they are named.
        what="Check of the split in $SPLITS_DIR (set another SPLITS_DIR for another one, or no input to use it as it is)"
        input+=(--check)
    fi
    if [[ -n $INPUT_JSONL$INPUT_DIR ]]; then
        step "$what" "${interpreter[@]}" "$DARKIR_HOME/create_data_splits.py" "${input[@]}"
    fi
    produced "$SPLITS_DIR/split_metadata.json"
    exec 9>&-
}

fold_folder() { # fold_folder FOLD: a single model lies at the top; without FOLD, where all of them are
    if ((N_FOLDS == 1)) || [[ -z $1 ]]; then
        say "$OUTPUT_DIR"
    else
        say "$OUTPUT_DIR/fold_$1"
    fi
}

fold_command() { # fold_command [FOLD]: sets `command` to what trains this fold, or all
    local rows=(--data_splits_dir "$SPLITS_DIR" --n_folds "$N_FOLDS")
    if ((N_FOLDS == 1)); then
        rows=(--train_jsonl "$SPLITS_DIR/fold_1/train.jsonl" --val_jsonl "$SPLITS_DIR/fold_1/val.jsonl")
        rows+=(--test_jsonl "$SPLITS_DIR/test.jsonl")
    elif (($#)); then
        rows+=(--fold "$1")
    fi
    [[ -z $BASE_DIR ]] || rows+=(--base_dir "$BASE_DIR")
    command=("${interpreter[@]}" "$DARKIR_HOME/train_darkir_cv.py" "${rows[@]}" --output_dir "$OUTPUT_DIR" "${TRAINING[@]}" "${EXTRA[@]}")
}

train_folds() { # An array task's own fold, or all of them
    local fold command
    if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        fold_command "$SLURM_ARRAY_TASK_ID"
        step "Fold $SLURM_ARRAY_TASK_ID of $N_FOLDS" "${command[@]}"
        produced "$(fold_folder "$SLURM_ARRAY_TASK_ID")/checkpoint_final.pt"
        return
    fi
    if ((PARALLEL_FOLDS && N_FOLDS > 1)); then
        train_side_by_side
    else
        fold_command
        step "Training, N_FOLDS=$N_FOLDS" "${command[@]}"
    fi
    for ((fold = 1; fold <= N_FOLDS; fold++)); do
        produced "$(fold_folder "$fold")/checkpoint_final.pt"
    done
}

train_side_by_side() { # One fold a GPU, in rounds of as many as there are GPUs
    local gpus first fold slot code command codes
    IFS=, read -r -a gpus <<<"$(visible_gpus)"
    ((${#gpus[@]})) || fail 2 "PARALLEL_FOLDS=1: no GPU found; set CUDA_VISIBLE_DEVICES, or leave it out"
    make_folder OUTPUT_DIR
    for ((first = 1; first <= N_FOLDS; first += ${#gpus[@]})); do
        start_of_step "Folds from $first on, one a GPU (${gpus[*]}): tail -f $OUTPUT_DIR/fold_*.out"
        children=()
        for slot in "${!gpus[@]}"; do
            fold=$((first + slot))
            ((fold <= N_FOLDS)) || break
            fold_command "$fold"
            CUDA_VISIBLE_DEVICES=${gpus[slot]} "${command[@]}" >>"$OUTPUT_DIR/fold_$fold.out" 2>&1 &
            children+=("$!")
        done
        codes=()
        for slot in "${!children[@]}"; do
            code=0
            await "${children[slot]}" || code=$?
            codes+=("$code")
        done
        stop_waiting
        end_of_round "$first"
    done
}

end_of_round() { # end_of_round FIRST: a failure counts more than a stop
    local slot fold
    for slot in "${!codes[@]}"; do
        fold=$(($1 + slot))
        was_stopped "${codes[slot]}" || ((codes[slot] == 0)) ||
            fail "${codes[slot]}" "fold $fold ended with exit code ${codes[slot]}: $(tail -n 3 -- "$OUTPUT_DIR/fold_$fold.out")"
    done
    for slot in "${!codes[@]}"; do
        end_of_step "Fold $(($1 + slot))" "${codes[slot]}"
    done
}

visible_gpus() { # 0,1,...
    if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
        say "$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader | paste -s -d , -
    fi
}

evaluate() {
    local models=(--cv_dir "$OUTPUT_DIR" --n_folds "$N_FOLDS") words fold
    ((N_FOLDS > 1)) || models=(--checkpoint "$OUTPUT_DIR/checkpoint_best.pt")
    read -r -a words <<<"$EVALUATION_OPTIONS"
    [[ -z $BASE_DIR ]] || words+=(--base_dir "$BASE_DIR")
    [[ -z $BASELINE ]] || words+=(--baseline "$BASELINE")
    [[ -z $BASELINE_L1 ]] || words+=(--baseline_l1 "$BASELINE_L1")
    for ((fold = 1; fold <= N_FOLDS; fold++)); do
        is_there "$(fold_folder "$fold")/checkpoint_final.pt" || fail 2 "$(fold_folder "$fold") is unfinished: train it first"
    done
    step "Evaluation" "${interpreter[@]}" "$DARKIR_HOME/evaluate_darkir_test.py" "${models[@]}" \
        --test_jsonl "$SPLITS_DIR/test.jsonl" --output_dir "$RESULTS_DIR" --num_workers "$NUM_WORKERS" --device "$DEVICE" \
        --save_visuals "${words[@]}"
    produced "$RESULTS_DIR/test_results.json"
    say "===== Done: $RESULTS_DIR/report.html, and $OUTPUT_DIR for the models"
}

evaluate_after_last_task() { # Exactly one task of an array evaluates: the first that finds all of them finished
    local folder fold finished owner
    folder=$(job_folder)
    make_folder OUTPUT_DIR "$(job_subfolder)"
    : >"$folder/finished_$SLURM_ARRAY_TASK_ID"
    finished=("$folder"/finished_*)
    if ((${#finished[@]} < SLURM_ARRAY_TASK_COUNT)); then
        say "${#finished[@]} of $SLURM_ARRAY_TASK_COUNT tasks have finished; the last one evaluates"
        return
    fi
    for ((fold = 1; fold <= N_FOLDS; fold++)); do
        if ! is_there "$(fold_folder "$fold")/checkpoint_final.pt"; then
            say "Fold $fold is in no task of this array and unfinished: no evaluation yet"
            return
        fi
    done
    # A link is made whole or not at all, also on network file systems; a requeued owner finds its own claim again.
    ln -s -T -- "$SLURM_ARRAY_TASK_ID" "$folder/evaluated_by" 2>/dev/null || true
    owner=$(readlink -- "$folder/evaluated_by") || fail 1 "cannot write $folder/evaluated_by"
    if [[ $owner != "$SLURM_ARRAY_TASK_ID" ]]; then
        say "Task $owner evaluates"
        return
    fi
    evaluate
}
