# shellcheck shell=bash
# Life under Slurm, for the wrappers at the top: signals reach the running step, a stopped job requeues itself and continues in
# the same log, and a job that only restarts ends. Without Slurm the same functions just run the steps.
#
# Which signal comes, and how long before the time limit: `#SBATCH --signal` at the top of both wrappers. What it does: below.
# Sourced first: the site's own settings (slurm/site.sh) are read here, before any setting gets its default.
# In:  BATCH (1 in a batch job), DARKIR_HOME, OUTPUT_DIR, WATCHED (folders in which progress shows).
# Out: every step's own exit code; 75 after a signal with a sound state; 1 when restarts bring nothing.

if [[ -e $DARKIR_HOME/slurm/site.sh ]]; then
    set +u # modules and conda read unset variables
    # shellcheck source=/dev/null
    source "$DARKIR_HOME/slurm/site.sh"
    set -u
fi
# -- The machine
: "${PYTHON:=python3}" # interpreter; may be a command with arguments, such as a container's

STOPPED=75
RUNS_WITHOUT_STEP=3
# So long before the time limit a step that has not saved yet is given up, so that the job can still requeue itself.
SECONDS_TO_REQUEUE=20
# Set where preemption only cancels; where it requeues, Slurm has done so by then and shows nothing.
PREEMPTED=' PreemptTime=[0-9]'
signal_received=""
children=()
patience="" # the process that gives a step up

say() { printf '%s\n' "$*"; }

fail() { # fail CODE MESSAGE...
    printf 'error: %s\n' "${*:2}" >&2
    exit "$1"
}

job_id() { # The id to requeue. In the last array task SLURM_JOB_ID is the whole array's.
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        say "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    else
        say "$SLURM_JOB_ID"
    fi
}

job_subfolder() { say ".slurm/${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"; }

job_folder() { say "$OUTPUT_DIR/$(job_subfolder)"; }

# Listed, not tested: network file systems remember for a while that a name was missing, but not what a folder held.
is_there() { [[ -n $(find "${1%/*}/" -maxdepth 1 -name "${1##*/}" 2>/dev/null) ]]; }

check_machine() {
    [[ $(uname -s) == Linux ]] || fail 2 "this toolkit runs on Linux; this is $(uname -s)"
    ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail 2 "bash 4.4 or newer is needed; this is $BASH_VERSION"
}

make_folder() { # make_folder NAME [BELOW]: the folder that the setting NAME names, or one below it
    local reason
    reason=$(mkdir -p -- "${!1}${2:+/$2}" 2>&1) || fail 2 "$1=${!1} cannot be made (${reason##*: }): name another one"
}

check_slurm_numbers() { # Slurm's own are numbers; what a user has exported by mistake must not be evaluated as arithmetic
    local name
    for name in SLURM_JOB_ID SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_{ID,COUNT,MIN,MAX} SLURM_RESTART_COUNT; do
        [[ ${!name:-0} =~ ^[0-9]+$ ]] || fail 2 "$name=${!name}: not a number"
    done
}

begin_job() { # The name of the log, and the end of useless restarts
    ((BATCH)) || return 0
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        name_array_log
    fi
    say "===== job $(job_id), restart ${SLURM_RESTART_COUNT:-0}, on $(hostname), $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    make_folder OUTPUT_DIR "$(job_subfolder)"
    refuse_useless_restart
}

# One --output pattern cannot serve both kinds of jobs: outside arrays %a is 4294967294. A link keeps the name that Slurm
# knows, so that its own messages and the next restart go to the same file.
name_array_log() {
    local now wanted="darkir_cv_${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.out"
    now=$(readlink "/proc/$$/fd/1") || return 0
    if [[ ${now##*/} == "darkir_cv_$SLURM_JOB_ID.out" && ! -e ${now%/*}/$wanted ]]; then
        mv -- "$now" "${now%/*}/$wanted"
        ln -s -- "$wanted" "$now"
    fi
}

# One word that changes when a training step was made or a FiveK pair was prepared in the folders, which may be missing.
progress_of() {
    {
        find -H "$@" -name progress.json -exec grep -H . {} + || true # training writes it beside checkpoint_last.pt
        find -H "$@" -path '*/meta/*' || true
    } 2>/dev/null | sort | sha256sum | cut -d ' ' -f 1
}

refuse_useless_restart() {
    local file now before="" runs=0 # "" is no word that progress_of prints
    file=$(job_folder)/restarts_${SLURM_ARRAY_TASK_ID:-0}
    now=$(progress_of "${WATCHED[@]}")
    if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -e $file ]]; then
        read -r runs before <"$file"
        [[ $runs =~ ^[0-9]+$ ]] || runs=0
    fi
    if [[ $now == "$before" ]]; then
        runs=$((runs + 1))
    else
        runs=1
    fi
    say "$runs $now" >"$file.new"
    mv -- "$file.new" "$file"
    if ((runs > RUNS_WITHOUT_STEP)); then
        fail 1 "$RUNS_WITHOUT_STEP runs in a row were stopped without one new training step: give the job more time (--time)"
    fi
}

forward() { # forward SIGNAL: to the running steps; what to do next is decided when they have ended
    signal_received=${signal_received:-$1}
    local child
    for child in ${children[@]+"${children[@]}"}; do
        kill -s "$1" "$child" 2>/dev/null || true
    done
    if ((BATCH && ${#children[@]})) && [[ $1 == USR1 && -z $patience ]]; then
        give_up_in_time
    fi
}

give_up_in_time() { # An update can take longer than Slurm waits; then the time limit would end the job in silence.
    local facts end left=0
    facts=$(SLURM_TIME_FORMAT=standard scontrol --oneliner show job "$(job_id)" 2>/dev/null) || facts=""
    if [[ $facts =~ \ EndTime=([0-9]+-[0-9]+-[0-9]+T[0-9:]+) ]] && end=$(date -d "${BASH_REMATCH[1]}" +%s 2>/dev/null); then
        left=$((end - $(date +%s)))
    fi
    if ((left <= 0)); then
        say "===== SIGUSR1: waiting for the running step to save its state"
        return 0
    fi
    say "===== SIGUSR1, $left s before the time limit: waiting for the running step to save its state"
    # A warning that came late leaves half of what is left.
    left=$((left > 2 * SECONDS_TO_REQUEUE ? left - SECONDS_TO_REQUEUE : left / 2))
    {
        trap 'kill "$!" 2>/dev/null; exit' TERM # of stop_waiting: its sleep would keep the log open
        sleep "$left" &
        wait "$!"
        say "===== No state was saved in $left s: the step is ended, what it did since its last state is lost." \
            "A longer --time, or a --signal=B:USR1@SECONDS longer than one update, keeps it"
        kill -s KILL "${children[@]}" 2>/dev/null
    } &
    patience=$!
}

await() { # await PID: its exit code, however often a trapped signal ends `wait` early
    local code=0 again=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    if ((code > 128)); then # perhaps the signal's code, and the step ended at the same moment
        wait "$1" 2>/dev/null || again=$?
        ((again == 127)) || code=$again
    fi
    return "$code"
}

step() { # step NAME COMMAND...: runs it; ends the job with its exit code when it fails, requeued when it was stopped
    local name=$1 code=0
    shift
    start_of_step "$name"
    "$@" &
    children=("$!")
    await "$!" || code=$?
    stop_waiting
    end_of_step "$name" "$code"
}

stop_waiting() { # all children have ended
    children=()
    [[ -z $patience ]] || kill "$patience" 2>/dev/null || true
}

start_of_step() { # start_of_step NAME: unless a signal came between two steps
    [[ -z $signal_received ]] || stop
    say "===== $1"
}

end_of_step() { # end_of_step NAME CODE
    if was_stopped "$2"; then
        stop
    fi
    (($2 == 0)) || fail "$2" "$1 ended with exit code $2"
}

was_stopped() { # was_stopped CODE; 129, 130, 138, 143: the signal came before python could handle it; 137: given up
    (($1 == STOPPED)) || [[ -n $signal_received && $1 =~ ^(129|130|138|143)$ ]] || [[ -n $patience && $1 == 137 ]]
}

stop() { # Requeue first, then leave at once: Slurm holds the node for a script that stays.
    local id facts
    if ((!BATCH)); then
        say "Stopped: run the same command again to continue"
        exit "$STOPPED"
    fi
    id=$(job_id)
    facts=$(scontrol --oneliner show job "$id") || facts="scontrol is not to be had"
    if [[ $facts == *" JobState="* && $facts != *" JobState=RUNNING "* && ! $facts =~ $PREEMPTED ]]; then
        # A requeue now would bring a cancelled job back to life.
        say "Stopped by Slurm, which cancelled or requeued the job itself. To continue after a cancel: submit again"
    elif [[ $signal_received == TERM && ! $facts =~ $PREEMPTED ]]; then
        say "Stopped by SIGTERM, so not requeued. To continue: scontrol requeue $id"
    elif scontrol requeue "$id"; then
        say "Stopped and requeued: continues in this log"
    else
        say "Stopped, but not requeued. To continue, on a machine with scontrol: scontrol requeue $id"
    fi
    exit "$STOPPED"
}

check_machine
check_slurm_numbers
# At once: a signal can come in the first second.
trap 'forward USR1' USR1
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'forward HUP' HUP
