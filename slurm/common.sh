# shellcheck shell=bash
# What the templates of this folder share: they source this file, and so does each task that they start.
#
# A job runs in two places. The batch script runs once, on the job's first node, and starts `srun`; srun
# starts a number of tasks, on all nodes. Functions below "on the nodes" run in such a task, those below
# "in the batch script" run before or after.
#
# SLURM copies a batch script elsewhere before it runs it, so a template cannot know where it came from:
# `anynet submit` passes it in ANYNET_SLURM; with plain sbatch it is slurm/ in the folder you submit from.

ANYNET_SLURM=${ANYNET_SLURM:-$SLURM_SUBMIT_DIR/slurm}
export ANYNET_SLURM
# Your settings, if you made any: copy site.example.sh to site.sh.
ANYNET_SITE=${ANYNET_SITE:-$ANYNET_SLURM/site.sh}
export ANYNET_SITE
if [ -e "$ANYNET_SITE" ]; then
    # shellcheck source=slurm/site.example.sh
    source "$ANYNET_SITE"
fi

say() { printf '%s %s: %s\n' "$(date '+%F %T')" "${SLURMD_NODENAME:-$(hostname)}" "$*"; }

# ---------------------------------------------------------------------------------------- on the nodes

# unusable MESSAGE: something that the site's settings name is not here. Its variable is in the job's last words.
unusable() {
    say "$*" >&2
    first_failure 2 "$*"
    exit 2
}

# first_failure CODE [TEXT]: write into ANYNET_FAILURE_FILE how this task ended, unless another one was first.
first_failure() {
    [ -n "${ANYNET_FAILURE_FILE:-}" ] || return 0
    (
        set -o noclobber # fails where the file exists
        printf '%s\n' "task ${SLURM_PROCID:-0} on $(node) ended with exit code $1" "${@:2}" >"$ANYNET_FAILURE_FILE"
    ) 2>/dev/null || true
}

node() { printf '%s\n' "${SLURMD_NODENAME:-$(hostname)}"; }

load_modules() {
    local module
    [ -n "${ANYNET_MODULES:-}" ] || return 0
    type module >/dev/null 2>&1 ||
        unusable "ANYNET_MODULES: there is no 'module' command on $(node), to load '$ANYNET_MODULES'"
    set +eu # scripts of modules and conda use variables that are not set
    for module in $ANYNET_MODULES; do
        module load "$module" || unusable "ANYNET_MODULES: '$module' cannot be loaded on $(node)"
    done
    set -eu
}

# Make `python` the one that has anynet_dist.
use_python() {
    local lacking
    set +eu
    if [ -n "${ANYNET_CONDA_ENV:-}" ]; then
        type conda >/dev/null 2>&1 ||
            unusable "ANYNET_CONDA_ENV: there is no conda on $(node); its module belongs in ANYNET_MODULES"
        eval "$(conda shell.bash hook)"
        conda activate "$ANYNET_CONDA_ENV" ||
            unusable "ANYNET_CONDA_ENV: '$ANYNET_CONDA_ENV' cannot be activated on $(node)"
    elif [ -n "${ANYNET_VENV:-}" ]; then
        [ -r "$ANYNET_VENV/bin/activate" ] && [ -x "$ANYNET_VENV/bin/python" ] ||
            unusable "ANYNET_VENV: '$ANYNET_VENV' is no virtual environment that works on $(node)"
        # shellcheck disable=SC1091
        source "$ANYNET_VENV/bin/activate"
    fi
    set -eu
    command -v python >/dev/null ||
        unusable "there is no python on $(node): set ANYNET_VENV, ANYNET_CONDA_ENV or ANYNET_CONTAINER"
    lacking=$(python -c 'from importlib.util import find_spec
print(*(name for name in ("torch", "anynet_dist") if find_spec(name) is None))') || lacking="a python that starts"
    [ -z "$lacking" ] ||
        unusable "$(command -v python) on $(node) lacks $lacking: see ANYNET_VENV, ANYNET_CONDA_ENV, ANYNET_CONTAINER"
}

activate() {
    load_modules
    use_python
}

# enter FUNCTION [ARGUMENT...]: run it with the site's python: in a container of apptainer's or singularity's,
# which starts here, else right here. (One of pyxis has been entered already, with the modules outside.)
enter() {
    case $(container_runtime) in
    pyxis) use_python ;;
    '') activate ;;
    *)
        load_modules
        in_container "$@"
        return
        ;;
    esac
    "$@"
}

# Empty where there is no container.
container_runtime() { printf '%s\n' "${ANYNET_CONTAINER:+${ANYNET_CONTAINER_RUNTIME:-pyxis}}"; }

in_container() {
    local runtime=$ANYNET_CONTAINER_RUNTIME words
    command -v "$runtime" >/dev/null ||
        unusable "ANYNET_CONTAINER_RUNTIME: there is no $runtime on $(node); its module belongs in ANYNET_MODULES"
    [[ $ANYNET_CONTAINER == *://* ]] || [ -e "$ANYNET_CONTAINER" ] ||
        unusable "ANYNET_CONTAINER: there is no image '$ANYNET_CONTAINER' on $(node)"
    [ -z "${ANYNET_STAGE_DIR:-}" ] || mkdir -p "$ANYNET_STAGE_DIR"
    words=(exec --pwd "$PWD" --bind "$(container_mounts "${ANYNET_STAGE_DIR:-}")")
    if [ "$(gpus_on_node)" -gt 0 ]; then
        if [ -e /dev/kfd ]; then words+=(--rocm); else words+=(--nv); fi
    fi
    # Neither the runtime nor this shell may die of a signal that the trainer handles.
    [[ $1 != launch* ]] || ignore_stop_signals
    # shellcheck disable=SC2016 # to be expanded in the container
    "$runtime" "${words[@]}" ${ANYNET_CONTAINER_OPTIONS[@]+"${ANYNET_CONTAINER_OPTIONS[@]}"} "$ANYNET_CONTAINER" \
        bash -c 'set -euo pipefail; source "$ANYNET_SLURM/common.sh"; use_python; "$@"' anynet "$@"
}

# container_mounts [FOLDER...]: the site's mounts, and each folder that the job needs, under its own name.
container_mounts() {
    local folder mounts=${ANYNET_CONTAINER_MOUNTS:-}
    for folder in "$PWD" "$ANYNET_SLURM" "$(dirname "$ANYNET_SITE")" "${ANYNET_RUN:-}" "$@"; do
        [ -n "$folder" ] || continue
        folder=$(realpath --no-symlinks --canonicalize-missing "$folder")
        [[ ,$mounts, == *",$folder:$folder,"* ]] || mounts+=${mounts:+,}$folder:$folder
    done
    printf '%s\n' "$mounts"
}

# When a job is preempted or its time is nearly over, SLURM sends a signal to every process of its tasks.
# The trainer handles it: it saves and stops. Everything around it, and a python that has not come as far,
# must not die of it. (What is ignored here stays ignored in programs started from here until they set
# a handler of their own.)
ignore_stop_signals() { trap '' TERM USR1 USR2 HUP INT; }

# Run a command. On several nodes each keeps its own log beside the job's, which mixes the lines of all.
with_log() {
    if [ "$SLURM_NNODES" -eq 1 ]; then
        "$@"
    else
        "$@" 2>&1 | tee -a "$ANYNET_LOGS/$SLURM_JOB_ID-$SLURMD_NODENAME.log"
    fi
}

# The job's GPUs on this node. Where SLURM does not count them, their names are counted.
gpus_on_node() {
    local names=${SLURM_JOB_GPUS:-${CUDA_VISIBLE_DEVICES:-}} list
    [[ $names != NoDevFiles ]] || names=
    IFS=, read -ra list <<<"$names"
    printf '%s\n' "${SLURM_GPUS_ON_NODE:-${#list[@]}}"
}

# One process per GPU; without GPUs as many as the site's settings ask for.
processes_on_node() {
    local gpus
    gpus=$(gpus_on_node)
    printf '%s\n' "${ANYNET_PROCESSES_PER_NODE:-$((gpus > 0 ? gpus : 1))}"
}

# launch_on_node ARGUMENT...: the one task of a node starts `anynet ARGUMENT...` in all its processes.
# The number of this node, SLURM_NODEID, is only right here: in the batch script it is 0 for all.
launch_on_node() {
    local status=0 processes
    processes=$(processes_on_node)
    ignore_stop_signals
    export ANYNET_STOPPED_EXIT_CODE=0 # a launcher reports any other one as a failure
    if [ -n "${ANYNET_ACCELERATE_CONFIG:-}" ]; then
        set -- accelerate launch --config_file "$ANYNET_ACCELERATE_CONFIG" \
            --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * processes))" \
            --machine_rank "$SLURM_NODEID" --main_process_ip "$MASTER_ADDR" \
            --main_process_port "$MASTER_PORT" --rdzv_backend static --same_network \
            -m anynet_dist "$@"
    elif [ "$((SLURM_NNODES * processes))" -eq 1 ]; then
        set -- python -m anynet_dist "$@"
    else
        # torchrun would give its processes 30 seconds after SIGTERM; without a handler it waits for them.
        set -- python -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "$processes" \
            --node-rank "$SLURM_NODEID" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
            --signals-to-handle SIGQUIT -m anynet_dist "$@"
    fi
    with_log "$@" || status=$?
    note_failure "$status"
    return "$status"
}

# launch_task ARGUMENT...: one task is one process of the run, there is no launcher. What a launcher passes
# to its processes is known from SLURM.
launch_task() {
    local status=0
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
    export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
    ignore_stop_signals
    with_log python -m anynet_dist "$@" || status=$?
    note_failure "$status"
    return "$status"
}

# A process that fails writes why into ANYNET_FAILURE_FILE, the first one only. One that was killed cannot:
# then report at least where. (75 is no failure: the run saved and stopped, as it was asked to.)
note_failure() {
    if [ "$1" -ne 0 ] && [ "$1" -ne 75 ] && ! [ -e "$ANYNET_RESUME_MARK" ]; then
        first_failure "$1"
    fi
}

# stage_data CONFIG [OVERRIDE...]: copy the run's .beton files to a disk of this node, unless they are there.
# Several tasks, or jobs, that ask at once wait for one copy. Prints the options that make the run use them.
stage_data() {
    if [ -n "${ANYNET_STAGE_DIR:-}" ]; then
        python -m anynet_dist data stage "$@" --to "$ANYNET_STAGE_DIR"
    fi
}

# launch FORM CONFIG [OVERRIDE...]: train with the data of this node; FORM is one of the two above.
launch() {
    local form=$1 staged words=()
    shift
    staged=$(stage_data "$@")
    [ -z "$staged" ] || mapfile -t words <<<"$staged"
    "$form" train "$@" "${words[@]}"
}

# Remove what was staged, and nothing else that may lie there: each copy is in a folder named by 16 digits.
unstage_data() {
    if [ -d "${ANYNET_STAGE_DIR:-}" ]; then
        find "$ANYNET_STAGE_DIR" -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
            -regex '.*/[0-9a-f]{16}' -exec rm -rf {} +
    fi
}

# ----------------------------------------------------------------------------------- in the batch script

# on_nodes [SRUN-OPTION...] -- FUNCTION [ARGUMENT...]: run a function of this file in tasks on the nodes.
# srun waits two minutes for the other tasks when one has ended: a rank that fails takes the others down
# within that time, and one that still writes is not cut short.
on_nodes() {
    local options=(--kill-on-bad-exit=0 --wait=120)
    if [ "$(container_runtime)" = pyxis ]; then
        load_modules
        [[ $(srun --help 2>&1) == *--container-image* ]] ||
            unusable "ANYNET_CONTAINER: SLURM has no pyxis plug-in here; see ANYNET_CONTAINER_RUNTIME"
        options+=(--container-image="$ANYNET_CONTAINER" --container-workdir="$PWD")
        options+=(--container-mounts="$(container_mounts)")
        options+=(${ANYNET_CONTAINER_OPTIONS[@]+"${ANYNET_CONTAINER_OPTIONS[@]}"})
    fi
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2016 # to be expanded on the nodes
    srun "${options[@]}" bash -c 'set -euo pipefail; source "$ANYNET_SLURM/common.sh"; enter "$@"' \
        anynet "$@"
}

# Everything that tasks need to know and that has the same value on all nodes.
export_facts() {
    ANYNET_RUN=$1
    ANYNET_LOGS=$ANYNET_RUN/slurm
    ANYNET_RESUME_MARK=$ANYNET_RUN/resume_me
    ANYNET_FAILURE_FILE=$ANYNET_LOGS/$SLURM_JOB_ID.failure
    export ANYNET_RUN ANYNET_LOGS ANYNET_RESUME_MARK ANYNET_FAILURE_FILE
    # All processes meet at the first node. The port belongs to the job, and lies below the range from
    # which Linux gives ports to others (from 32768).
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
    export MASTER_ADDR MASTER_PORT
    # Since SLURM 22.05 srun no longer inherits this from sbatch.
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    # A job submitted with --export=NONE would start its tasks with an empty environment.
    export SLURM_EXPORT_ENV=ALL
    export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    # When the time limit ends the job, in seconds since 1970; older versions of SLURM do not set it.
    if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
        SLURM_JOB_END_TIME=$(date -d "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %e)" +%s || true)
    fi
    if [ -n "$SLURM_JOB_END_TIME" ]; then # else the job has no time limit
        export SLURM_JOB_END_TIME
    else
        unset SLURM_JOB_END_TIME
    fi
}

# train FORM RUN CONFIG [OVERRIDE...]: the whole job, but for its last word: the exit code is this script's.
train() {
    local form=$1 run=$2 config=$3 status=0 tasks=(--ntasks-per-node=1 --ntasks="$SLURM_NNODES")
    shift 3
    mkdir -p "$run/slurm"
    export_facts "$run"
    say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST; run folder $run"
    [ "$(gpus_on_node)" -gt 0 ] || say "this job has no GPUs (--gpus-per-node asks for them): it trains on CPUs"
    rm -f "$ANYNET_RESUME_MARK" "$ANYNET_FAILURE_FILE"
    set -- "$config" "$@" --run.dir "$run" --run.stop_signal "SIG${ANYNET_SIGNAL:-USR1}"
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && compgen -G "$run/checkpoints/step_*" >/dev/null; then
        set -- "$@" --run.resume auto --run.overwrite false # however it was started the first time
    fi
    if [ "${ANYNET_PREFLIGHT:-no}" = yes ]; then
        start "$form" "$form" doctor --distributed --run-dir "$(dirname "$run")" || status=$?
        [ "$status" -eq 0 ] || say "the pre-flight found problems: the run is not started"
    fi
    if [ "$status" -eq 0 ] && [ -n "${ANYNET_STAGE_DIR:-}" ]; then
        on_nodes "${tasks[@]}" -- stage_data "$@" >/dev/null || status=$?
    fi
    if [ "$status" -eq 0 ]; then
        start "$form" launch "$form" "$@" || status=$?
    fi
    if [ "${ANYNET_STAGE_KEEP:-yes}" = no ]; then
        on_nodes "${tasks[@]}" -- unstage_data || true
    fi
    finish "$status"
}

# work FOLDER [ARGUMENT...]: the whole job of one worker of a population, but for its last word, as `train`. A worker
# that is stopped leaves its mark in a folder of its own, and goes on with whatever members are left then.
work() {
    local folder=$1 own=$1/slurm/worker_$SLURM_ARRAY_TASK_ID status=0
    shift
    mkdir -p "$own/slurm"
    export_facts "$own"
    say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST; population $folder"
    [ "$(gpus_on_node)" -gt 0 ] || say "this job has no GPUs (--gpus-per-node asks for them): it trains on CPUs"
    rm -f "$ANYNET_RESUME_MARK" "$ANYNET_FAILURE_FILE"
    start launch_on_node launch_on_node sweep worker "$folder" "$@" \
        --run.stop_signal "SIG${ANYNET_SIGNAL:-USR1}" || status=$?
    finish "$status"
}

# start FORM FUNCTION [ARGUMENT...]: one task per node for a launcher, else one for each process.
start() {
    local options=(--label)
    if [ "$1" = launch_on_node ]; then
        options+=(--ntasks-per-node=1 --ntasks="$SLURM_NNODES")
    fi
    [ "${SLURM_NTASKS:-1}" -gt 1 ] || options=()
    shift
    on_nodes "${options[@]}" -- "$@"
}

# finish STATUS: the run's part is over. Queue the job again if the run is to be resumed, else report how it ended.
# A preempted job that ends within its grace time counts as completed, and its batch script receives no
# signal: only the mark that the trainer leaves shows that there is more to do. (After `scancel` this is
# not reached: that ends the batch script too.)
finish() {
    local status=$1
    if [ -e "$ANYNET_RESUME_MARK" ]; then
        requeue "$(sed -n 's/^ *"reason": "\(.*\)".*/\1/p' "$ANYNET_RESUME_MARK")"
    elif [ "$status" -ne 0 ] && ! nodes_answer; then
        requeue "a node of this job no longer answers"
    elif [ "$status" -ne 0 ]; then
        explain "$status"
    else
        say "finished"
    fi
}

nodes_answer() {
    [ "$SLURM_NNODES" -eq 1 ] ||
        timeout 60 srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" --immediate=60 true
}

# requeue REASON: the same job, with the same number, waits for its turn again; then it starts from the top.
requeue() {
    local restarts=${SLURM_RESTART_COUNT:-0} limit=${ANYNET_MAX_RESTARTS:-20}
    if [ "$restarts" -ge "$limit" ]; then
        say "not queued again: already restarted $restarts times (ANYNET_MAX_RESTARTS): $1"
        exit 75
    fi
    say "queued again (restart $((restarts + 1)) of at most $limit): $1"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 300 # SLURM ends this script meanwhile
    fi
    say "SLURM did not queue the job again; submit it once more with --run.resume auto to continue"
    exit 75
}

# explain STATUS: the root cause goes last in the log, where one looks first; then exit with its code.
explain() {
    local status=$1 code
    say "failed with exit code $status"
    if [ -s "$ANYNET_FAILURE_FILE" ]; then
        printf '%s\n' "------ what failed first ------"
        cat "$ANYNET_FAILURE_FILE"
        code=$(sed -n '1s/.* exit code \([0-9]*\)$/\1/p' "$ANYNET_FAILURE_FILE")
        status=${code:-$status}
    fi
    exit "$status"
}
