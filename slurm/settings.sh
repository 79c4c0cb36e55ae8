# shellcheck shell=bash
# What both wrappers begin with: --help, the site's settings and the settings that both have; and what a split that is there, or a
# file of a usual name, says where none is named. Sourced by a wrapper, whose arguments it sees.
#
# A setting is one line, here or at the top of its wrapper: its name, its default and, as a comment, what it is. --help prints them.

asks_for_help() { # asks_for_help ARGUMENTS...
    local word
    for word in "$@"; do
        [[ $word != --help && $word != -h ]] || return 0
    done
    return 1
}

print_help() { # print_help SCRIPT: the comment at its top, then its settings with their defaults
    local name default what
    sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$1"
    printf '\nSettings: environment variables, here with their defaults. slurm/site.sh, where it exists, is read first.\n'
    sed -n -e 's/^# -- \(.*\)/\1/p' -e 's/^: "\${\([A-Z0-9_]*\):=\(.*\)}" # \(.*\)/\1\t=\2\t\3/p' "$DARKIR_HOME/slurm/settings.sh" "$1" "$DARKIR_HOME/slurm/job.sh" |
        while IFS=$'\t' read -r name default what; do
            if [[ -z $default ]]; then
                printf '\n%s\n' "$name"
            elif ((${#name} + ${#default} > 40)); then
                printf '  %s%s\n  %-40s  %s\n' "$name" "$default" "" "$what"
            else
                printf '  %-40s  %s\n' "$name$default" "$what"
            fi
        done
}

note_named() { # Before the defaults are filled in: which settings of the split the user names
    local name
    NAMED=()
    for name in TEST_SIZE N_FOLDS SEED; do
        [[ -z ${!name:-} ]] || NAMED+=("$name")
    done
}

recorded() { # recorded NAME: a number that the split was made with; nothing where it says none
    sed -n "/^ *\"$1\": \([0-9][0-9]*\),\{0,1\}\$/{s//\1/p;q}" "$SPLITS_DIR/split_metadata.json"
}

follow_split() { # A split that is there decides what is not named; what is named must be what it was made with
    local name there
    SPLIT_SEED=$SEED
    [[ -e $SPLITS_DIR/split_metadata.json ]] || return 0
    for name in TEST_SIZE N_FOLDS SEED; do
        there=$(recorded "${name,,}")
        [[ -n $there && ${!name} != "$there" ]] || continue
        [[ " ${NAMED[*]-} " != *" $name "* ]] ||
            fail 2 "$name=${!name}, but the split in $SPLITS_DIR was made with $there: leave $name out to use that split, or set" \
                "another SPLITS_DIR (and INPUT_JSONL or INPUT_DIR) for another one.$(other_way "$name")"
        case $name in
        SEED) SPLIT_SEED=$there ;; # the training has its own
        *) say "$name=$there, as the split in $SPLITS_DIR has it" && printf -v "$name" %s "$there" ;;
        esac
    done
}

other_way() { # other_way SETTING
    case $1 in
    N_FOLDS) say " For one fold of it: train_darkir_cv.py --fold, or sbatch --array" ;;
    SEED) say " For another seed of the training alone: the argument --seed" ;;
    esac
}

default_input() { # A file of a usual name is the input of a split that is still to be made, or was made from it
    local name
    [[ -z $INPUT_JSONL$INPUT_DIR ]] || return 0
    for name in train_cleaned.jsonl train.jsonl; do
        [[ -e $name ]] || continue
        [[ ! -e $SPLITS_DIR/split_metadata.json ]] ||
            grep -q "\"input_jsonl\": \"$name\"" "$SPLITS_DIR/split_metadata.json" || continue
        INPUT_JSONL=$name
        say "INPUT_JSONL=$name: no input is named, and this file is here"
        return
    done
}

if asks_for_help "$@"; then
    print_help "${BASH_SOURCE[1]}"
    exit
fi
# shellcheck source=slurm/job.sh
source "$DARKIR_HOME/slurm/job.sh" # the site's settings come before any default
note_named

# -- Photos and split
: "${INPUT_JSONL:=}" # pairs; without an input: train_cleaned.jsonl or train.jsonl, where one is here
: "${INPUT_DIR:=}" # or a folder with *_src.* and *_tar.*
: "${BASE_DIR:=}" # folder that relative paths in the pairs start from
: "${TEST_SIZE:=10}" # photos in the test set; a split that is there has its own
: "${N_FOLDS:=3}" # folds, 1: one model; a split that is there has its own
: "${SEED:=42}" # of split and training
: "${GROUP_KEY:=}" # row field of what must stay together; group without it
: "${SPLITS_DIR:=data_splits}" # the split, made if it is not there
# -- All trainings
: "${MODEL_SIZE:=m}" # m, l or tiny
: "${NUM_WORKERS:=4}" # loader processes
: "${MIXED_PRECISION:=1}" # 1: 16 bit where that is safe, 0: float32
: "${DEVICE:=auto}" # auto, cuda, cpu or cuda:N
: "${PARALLEL_FOLDS:=0}" # 1: one fold a GPU, side by side
