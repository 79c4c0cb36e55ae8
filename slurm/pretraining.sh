# shellcheck shell=bash
# The steps that only train_with_pretrain.sh has: FiveK, pre-training on it, fine-tuning from it.
#
# In: the settings of the wrapper as variables, COMMON (options of both trainings), ARGUMENTS (the wrapper's own arguments).

prepare_fivek() {
    [[ -z $PRETRAINED_PATH ]] || return 0
    local options=(--fivek_dir "$FIVEK_DIR" --output_dir "$FIVEK_OUTPUT" --expert "$FIVEK_EXPERT" --max_reject "$FIVEK_MAX_REJECT")
    [[ -z $FIVEK_LIMIT ]] || options+=(--limit "$FIVEK_LIMIT")
    options+=("${fivek_words[@]}")
    if fivek_is_complete; then
        # It must not stand in for pairs of other options. Their photos may be gone by now.
        step "Check of $FIVEK_OUTPUT (set another FIVEK_OUTPUT and PRETRAINED_DIR for other options)" \
            "${interpreter[@]}" "$DARKIR_HOME/prepare_fivek_robust.py" "${options[@]}" --check
        say "FiveK: $FIVEK_OUTPUT is complete, $(wc -l <"$FIVEK_OUTPUT/train.jsonl") pairs to train on"
        return
    fi
    step "FiveK preparation" "${interpreter[@]}" "$DARKIR_HOME/prepare_fivek_robust.py" "${options[@]}"
    produced "$FIVEK_OUTPUT/train.jsonl"
}

fivek_is_complete() { # the metadata comes last; with no more rejects than allowed
    is_there "$FIVEK_OUTPUT/dataset_metadata.json" || return 1
    "${interpreter[@]}" - "$FIVEK_OUTPUT/dataset_metadata.json" "$FIVEK_MAX_REJECT" <<'END'
import json, sys
path, most = sys.argv[1:]
sys.exit(json.load(open(path, encoding="utf-8"))["reject_rate"] > float(most))
END
}

pretrain() { # without what the folds hold out, or looks like it: fine-tuning refuses weights that saw it, but only afterwards
    [[ -z $PRETRAINED_PATH ]] || return 0
    local rows=(--train_jsonl "$FIVEK_OUTPUT/train.jsonl" --exclude_splits_dir "$SPLITS_DIR")
    step "Pre-training" "${interpreter[@]}" "$DARKIR_HOME/train_darkir_cv.py" "${rows[@]}" --output_dir "$PRETRAINED_DIR" \
        "${COMMON[@]}" --resolution "$PRETRAIN_RESOLUTION" --batch_size "$PRETRAIN_BATCH_SIZE" --epochs "$PRETRAIN_EPOCHS" \
        --lr "$PRETRAIN_LR" --warmup_epochs "$PRETRAIN_WARMUP_EPOCHS" --early_stopping_patience "$PRETRAIN_PATIENCE" \
        --preprocess "$PRETRAIN_PREPROCESS" "${pretrain_words[@]}" "${ARGUMENTS[@]}"
    produced "$PRETRAINED_DIR/checkpoint_final.pt"
}

finetune() {
    [[ -n $PRETRAINED_PATH ]] || is_there "$PRETRAINED_DIR/checkpoint_final.pt" ||
        fail 2 "$PRETRAINED_DIR holds no finished pre-training: train_with_pretrain.sh --submit runs it before the folds"
    train_folds
}
