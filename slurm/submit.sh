# shellcheck shell=bash
# train_with_pretrain.sh --submit: its stages as Slurm jobs, each after the one before has ended well.
#
# In: PREPARE_SBATCH and TRAIN_SBATCH (options of sbatch), ARGUMENTS (the wrapper's own arguments).

queue() { # queue STAGE SBATCH_OPTIONS...: one job, after the one before; when Slurm refuses it, all are taken back
    local stage=$1 code=0 id
    shift
    if ((${#jobs[@]})); then
        set -- --dependency="afterok:${jobs[-1]}" "$@"
    fi
    id=$(sbatch --parsable --export=ALL --kill-on-invalid-dep=yes --job-name="darkir_$stage" "$@" \
        "$DARKIR_HOME/train_with_pretrain.sh" --stage "$stage" "${ARGUMENTS[@]}") || code=$?
    if ((code)); then
        ((!${#jobs[@]})) || scancel "${jobs[@]}"
        fail "$code" "sbatch refused the $stage job; nothing is left in the queue"
    fi
    jobs+=("${id%%;*}")
    say "$stage: job ${jobs[-1]}"
}

submit() {
    local jobs=() prepare_words train_words array=() logs
    read -r -a prepare_words <<<"$PREPARE_SBATCH"
    read -r -a train_words <<<"$TRAIN_SBATCH"
    check_build
    queue prepare --gres=none "${prepare_words[@]}" # against the line of the wrapper: nothing is computed on a GPU yet
    [[ -n $PRETRAINED_PATH ]] || queue pretrain "${train_words[@]}"
    ((N_FOLDS == 1)) || array=(--array="1-$N_FOLDS" --output=darkir_cv_%A_%a.out)
    queue folds "${array[@]}" "${train_words[@]}"
    queue evaluate "${train_words[@]}"
    logs=$(logs_of_jobs)
    say "Follow: squeue --jobs=$(IFS=, && say "${jobs[*]}")"
    say "        tail -F $logs"
    say "Stop:   scancel ${jobs[*]}"
    say "When one fails, those after it are cancelled; the same command submits what is left"
}

check_build() { # Before the queue's hours; where jobs have another Python than this machine, they will tell
    (choose_python) 2>/dev/null || return 0
    choose_python
    [[ $DEVICE == cpu ]] || "${interpreter[@]}" "$DARKIR_HOME/slurm/check_device.py" "$DEVICE" --submit || exit
}

logs_of_jobs() { # of the array's tasks, too; in the order in which they will be written
    local job fold
    for job in "${jobs[@]}"; do
        if [[ $job != "${jobs[-2]}" ]] || ((N_FOLDS == 1)); then
            printf 'darkir_cv_%s.out ' "$job"
            continue
        fi
        for ((fold = 1; fold <= N_FOLDS; fold++)); do
            printf 'darkir_cv_%s_%d.out ' "$job" "$fold"
        done
    done
}
