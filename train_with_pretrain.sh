#!/usr/bin/env bash
# FiveK -> pre-training -> K-fold fine-tuning -> ensemble evaluation -> comparison. A rerun of the same command continues.
#
#   INPUT_JSONL=photos/pairs.jsonl bash train_with_pretrain.sh               here, everything in order
#   INPUT_JSONL=photos/pairs.jsonl sbatch train_with_pretrain.sh             one Slurm job
#   INPUT_JSONL=photos/pairs.jsonl bash train_with_pretrain.sh --submit      jobs that wait for each other; one a fold
#   INPUT_JSONL=photos/pairs.jsonl sbatch --array=1-3 train_with_pretrain.sh one fold a task, once pre-training is finished
#   N_FOLDS=1 INPUT_JSONL=photos/pairs.jsonl bash train_with_pretrain.sh     one fine-tuned model instead of folds
#
# --help prints all settings. Each is an environment variable; arguments of this script go to both trainings as they are. sbatch's own
# options (partition, account, time) go before the script's name and win over the lines that follow; --submit takes them from
# PREPARE_SBATCH and TRAIN_SBATCH. Log under Slurm: darkir_cv_<job id>.out, array tasks darkir_cv_<array>_<task>.out.
# Exit code: that of the step that failed (3: too many FiveK pairs were rejected; look at rejected.csv, see FIVEK_MAX_REJECT).
#SBATCH --job-name=darkir_pretrain_cv
#SBATCH --output=darkir_cv_%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=24:00:00
set -euo pipefail

BATCH=0
home=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${SLURM_JOB_ID:-} && ${BASH_SOURCE[0]##*/} == slurm_script ]]; then
    # What runs is a copy in Slurm's spool folder; the script that was submitted lies with the toolkit.
    BATCH=1
    home=$(scontrol --oneliner show job "$SLURM_JOB_ID" | sed -n 's:.* Command=\(.*\)/train_with_pretrain\.sh.*:\1:p' | head -n 1) || true
    [[ $home == /* ]] || home=$SLURM_SUBMIT_DIR/$home
    [[ -e $home/slurm/job.sh ]] || home=$SLURM_SUBMIT_DIR # no scontrol, or the script came through a pipe
fi
export DARKIR_HOME=${DARKIR_HOME:-$home}
if [[ ! -e $DARKIR_HOME/slurm/settings.sh ]]; then
    printf 'error: %s/slurm is not there: a copy of this wrapper needs DARKIR_HOME, the folder of the toolkit\n' "$DARKIR_HOME" >&2
    exit 2
fi
source "$DARKIR_HOME/slurm/settings.sh" # --help, and the settings that both wrappers have

# -- FiveK
: "${FIVEK_DIR:=fivek_dataset}" # FiveK as it was downloaded
: "${FIVEK_OUTPUT:=fivek_processed}" # the pairs made from it
: "${FIVEK_EXPERT:=C}" # whose renditions, A to E
: "${FIVEK_LIMIT:=}" # only so many pairs
: "${FIVEK_MAX_REJECT:=0.02}" # share of pairs that may be rejected
: "${FIVEK_OPTIONS:=}" # further flags of prepare_fivek_robust.py
# -- Pre-training
: "${PRETRAINED_PATH:=}" # weights that are there already: FiveK and pre-training are left out
: "${PRETRAINED_DIR:=outputs_fivek_pretrained}" # the pre-trained model
: "${PRETRAIN_RESOLUTION:=512}" # pixels
: "${PRETRAIN_BATCH_SIZE:=8}" # pairs in a batch
: "${PRETRAIN_EPOCHS:=30}" # passes over the FiveK pairs
: "${PRETRAIN_LR:=5e-5}" # peak learning rate
: "${PRETRAIN_WARMUP_EPOCHS:=5}" # epochs of warm-up
: "${PRETRAIN_PATIENCE:=10}" # epochs without a better validation PSNR before it ends
: "${PRETRAIN_PREPROCESS:=light_aug}" # augmentation
: "${PRETRAIN_OPTIONS:=}" # further flags of train_darkir_cv.py, for pre-training alone
# -- Fine-tuning
: "${RESOLUTION:=896}" # pixels
: "${BATCH_SIZE:=4}" # pairs in a batch
: "${EPOCHS:=100}" # passes over the training pairs
: "${LR:=1e-5}" # peak learning rate
: "${WARMUP_EPOCHS:=5}" # epochs of warm-up
: "${PATIENCE:=15}" # epochs without a better validation PSNR before a fold ends
: "${PREPROCESS:=light_aug}" # augmentation
: "${FINETUNE_OPTIONS:=}" # further flags of train_darkir_cv.py, for fine-tuning alone
: "${OUTPUT_DIR:=outputs_finetuned_from_fivek}" # models
# -- Evaluation
: "${RESULTS_DIR:=test/finetuned_from_fivek}" # results
: "${EVALUATION_OPTIONS:=}" # further flags of evaluate_darkir_test.py
: "${BASELINE:=}" # test_results.json of another run on the same test photos, to compare with
: "${BASELINE_L1:=}" # or a bare number
# -- Jobs of --submit
: "${PREPARE_SBATCH:=}" # options of sbatch for the preparation
: "${TRAIN_SBATCH:=}" # and for the other jobs

source "$DARKIR_HOME/slurm/chain.sh"
source "$DARKIR_HOME/slurm/pretraining.sh"
source "$DARKIR_HOME/slurm/submit.sh"

stage=all
case ${1:-} in
--submit) stage=submit && shift ;;
--stage) stage=${2:-} && shift 2 ;; # one job of --submit
esac
read -r -a fivek_words <<<"$FIVEK_OPTIONS"
read -r -a pretrain_words <<<"$PRETRAIN_OPTIONS"
read -r -a finetune_words <<<"$FINETUNE_OPTIONS"
check_settings "$@" "${pretrain_words[@]}" "${finetune_words[@]}"
[[ " $* ${pretrain_words[*]} ${finetune_words[*]}" != *" --pretrained_path"* ]] ||
    fail 2 "--pretrained_path: set PRETRAINED_PATH instead"
[[ " ${fivek_words[*]}" != *" --output_dir"* ]] || fail 2 "FIVEK_OPTIONS: set FIVEK_OUTPUT instead of --output_dir"
[[ -z $PRETRAINED_PATH || -e $PRETRAINED_PATH ]] || fail 2 "PRETRAINED_PATH=$PRETRAINED_PATH is missing"
pretrained=${PRETRAINED_PATH:-$PRETRAINED_DIR/checkpoint_best.pt}
COMMON=(--model_size "$MODEL_SIZE" --seed "$SEED" --num_workers "$NUM_WORKERS" --device "$DEVICE")
[[ $MIXED_PRECISION == 0 ]] || COMMON+=(--mixed_precision)
TRAINING=("${COMMON[@]}" --pretrained_path "$pretrained" --resolution "$RESOLUTION" --batch_size "$BATCH_SIZE"
    --epochs "$EPOCHS" --lr "$LR" --warmup_epochs "$WARMUP_EPOCHS" --early_stopping_patience "$PATIENCE"
    --preprocess "$PREPROCESS")
ARGUMENTS=("$@")
EXTRA=("${finetune_words[@]}" "$@")
WATCHED=("$FIVEK_OUTPUT" "$PRETRAINED_DIR" "$(fold_folder "${SLURM_ARRAY_TASK_ID:-}")")

if [[ $stage == submit ]]; then
    submit
    exit
fi
choose_python
begin_job
[[ $stage == prepare ]] || check_device
case $stage in
all)
    make_split
    if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        finetune
        evaluate_after_last_task
    else
        prepare_fivek
        pretrain
        finetune
        evaluate
    fi
    ;;
prepare)
    make_split
    prepare_fivek
    ;;
pretrain) pretrain ;;
folds) finetune ;;
evaluate) evaluate ;;
*) fail 2 "--stage $stage: prepare, pretrain, folds or evaluate" ;;
esac
