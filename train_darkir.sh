#!/usr/bin/env bash
# Pairs of photos -> split -> one DarkIR model a fold -> ensemble evaluation. A rerun of the same command continues.
#
#   INPUT_JSONL=photos/pairs.jsonl bash train_darkir.sh                      here, one GPU or CPU
#   INPUT_JSONL=photos/pairs.jsonl PARALLEL_FOLDS=1 bash train_darkir.sh     here, one fold a GPU
#   INPUT_JSONL=photos/pairs.jsonl sbatch train_darkir.sh                    one Slurm job
#   INPUT_JSONL=photos/pairs.jsonl sbatch --array=1-3 train_darkir.sh        one fold a task; the last one evaluates
#
# --help prints all settings. Each is an environment variable; arguments of this script go to train_darkir_cv.py as they are. sbatch's own
# options (partition, account, time) go before the script's name and win over the lines that follow.
# Log under Slurm: darkir_cv_<job id>.out, array tasks darkir_cv_<array>_<task>.out. Exit code: that of the step that failed.
#SBATCH --job-name=darkir_cv
#SBATCH --output=darkir_cv_%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
set -euo pipefail

BATCH=0
home=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${SLURM_JOB_ID:-} && ${BASH_SOURCE[0]##*/} == slurm_script ]]; then
    # What runs is a copy in Slurm's spool folder; the script that was submitted lies with the toolkit.
    BATCH=1
    home=$(scontrol --oneliner show job "$SLURM_JOB_ID" | sed -n 's:.* Command=\(.*\)/train_darkir\.sh.*:\1:p' | head -n 1) || true
    [[ $home == /* ]] || home=$SLURM_SUBMIT_DIR/$home
    [[ -e $home/slurm/job.sh ]] || home=$SLURM_SUBMIT_DIR # no scontrol, or the script came through a pipe
fi
DARKIR_HOME=${DARKIR_HOME:-$home}
if [[ ! -e $DARKIR_HOME/slurm/settings.sh ]]; then
    printf 'error: %s/slurm is not there: a copy of this wrapper needs DARKIR_HOME, the folder of the toolkit\n' "$DARKIR_HOME" >&2
    exit 2
fi
source "$DARKIR_HOME/slurm/settings.sh" # --help, and the settings that both wrappers have

# -- Training of the folds
: "${RESOLUTION:=384}" # pixels
: "${EPOCHS:=100}" # passes over the training pairs
: "${BATCH_SIZE:=8}" # pairs in a batch
: "${LR:=1e-4}" # peak learning rate
: "${WARMUP_EPOCHS:=5}" # epochs of warm-up
: "${PATIENCE:=15}" # epochs without a better validation PSNR before a fold ends
: "${OUTPUT_DIR:=outputs_darkir_${RESOLUTION}_${MODEL_SIZE}_cv}" # models
# -- Evaluation
: "${RESULTS_DIR:=test_results}" # results
: "${EVALUATION_OPTIONS:=}" # further flags of evaluate_darkir_test.py
: "${BASELINE:=}" # test_results.json of another run on the same test photos, to compare with
: "${BASELINE_L1:=}" # or a bare number

EXTRA=("$@")
TRAINING=(--model_size "$MODEL_SIZE" --resolution "$RESOLUTION" --epochs "$EPOCHS" --batch_size "$BATCH_SIZE" --lr "$LR"
    --warmup_epochs "$WARMUP_EPOCHS" --early_stopping_patience "$PATIENCE" --seed "$SEED" --num_workers "$NUM_WORKERS"
    --device "$DEVICE")

source "$DARKIR_HOME/slurm/chain.sh"
check_settings "$@"
[[ $MIXED_PRECISION == 0 ]] || TRAINING+=(--mixed_precision)
WATCHED=("$(fold_folder "${SLURM_ARRAY_TASK_ID:-}")")
choose_python
begin_job
check_device

make_split
train_folds
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    evaluate_after_last_task
else
    evaluate
fi
