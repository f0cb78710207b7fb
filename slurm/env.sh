# Sourced by the job scripts of this folder: where things are, and `run_and_requeue`.
#
# R1MEGA_HOME          the checkout; else where sbatch was called
# R1MEGA_PYTHON        its Python; else .venv/bin/python of the checkout
# R1MEGA_MAX_RESTARTS  how often Slurm may start the job again (20)
# R1MEGA_PREFLIGHT_S   how long the nodes may take to answer the preflight (180)
# R1MEGA_FREE_GIB      disk that each node must have free for the run's folder (5)
# shellcheck shell=bash

: "${R1MEGA_HOME:=$SLURM_SUBMIT_DIR}" "${R1MEGA_MAX_RESTARTS:=20}"
: "${R1MEGA_PYTHON:=$R1MEGA_HOME/.venv/bin/python}"

# Ranks meet at the first node, where this script runs, at the address that Slurm itself knows it by:
# names need not resolve.
MASTER_ADDR=$(scontrol -o show node "$SLURMD_NODENAME" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
# Nodes of one address are one machine, where Slurm is rehearsed.
R1MEGA_MACHINES=$(scontrol -o show node "$SLURM_JOB_NODELIST" | grep -o 'NodeAddr=[^ ]*' | sort -u | wc -l)
R1MEGA_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
R1MEGA_TASKS_PER_NODE=$(((SLURM_NTASKS + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
export MASTER_ADDR R1MEGA_MACHINES R1MEGA_NODES R1MEGA_TASKS_PER_NODE
# srun does not take this from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# Run r1mega on all tasks, after a preflight of the nodes; ends the script.
#
# Exit code 75 (the state is saved) and death by a signal put the job back into the queue; so does a node
# that the preflight names, which the job avoids from then on. Anything else ends the job with that code.
run_and_requeue() {
    local code=0 bad='' said
    # Begun anew once, the job goes on from there.
    [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || set -- "$@" fresh=false
    said=$(mktemp -d) && touch "$said/faults" "$said/errors"
    step='' signals=0
    trap 'signals=$((signals + 1)); [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
    echo "r1mega: start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST, $(date --iso-8601=seconds)"
    look_at_nodes "$@" || code=$?
    if [ "$code" -eq 0 ]; then
        run_step "$R1MEGA_PYTHON" -m r1mega "$@" || code=$?
        # What failed may have been a node: a GPU that is gone, a disk that is full, a lost peer.
        [ "$code" -ne 1 ] || look_at_nodes "$@" || true
    fi
    bad=$(bad_nodes)
    rm -rf "$said"
    [ "$code" -ne 0 ] || exit 0
    if [ "$code" -eq 75 ] || [ "$code" -gt 128 ] || [ -n "$bad" ]; then
        requeue "$bad"
    else
        echo "r1mega: exit code $code, not put back into the queue"
    fi
    exit "$code"
}

look_at_nodes() {
    run_step --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        "$R1MEGA_PYTHON" -m r1mega.preflight "$@" >"$said/faults"
}

# One srun to its end, and the code of the task that ended badly first: srun's own would be of the others,
# which it ends by a signal.
run_step() {
    [ "$signals" -eq 0 ] || return 75
    local code before first pid
    exec 3> >(trap '' USR1 TERM && exec sed -u "/^srun: error: /w $said/errors" >&2)
    pid=$!
    # srun takes TERM for an order to kill, and would get it together with this script.
    (trap '' TERM && exec srun --kill-on-bad-exit=1 "$@" 2>&3) &
    step=$!
    exec 3>&-
    while :; do
        before=$signals code=0
        wait "$step" || code=$?
        [ "$signals" -ne "$before" ] || break # else a signal ended the wait, and not the step
    done
    step=''
    wait "$pid" || true
    first=$(sed -n 's/^srun: error: [^ ]*: tasks\{0,1\} [^:]*: //p' "$said/errors" | head -n 1)
    case $first in
    'Exited with exit code '*) return "${first##* }" ;;
    *) return "$code" ;;
    esac
}

# Show the nodes' faults, and name the nodes, with commas between; nothing where all nodes are at fault,
# since other nodes would be no better.
bad_nodes() {
    sed -n 's/^srun: error: Task launch .* failed on node \([^:]*\): /\1: cannot start a task: /p' \
        "$said/errors" >>"$said/faults"
    sort -u "$said/faults" >&2
    local node bad=()
    for node in $R1MEGA_NODES; do
        ! grep -q "^$node: " "$said/faults" || bad+=("$node")
    done
    [ "${#bad[@]}" -eq "$SLURM_JOB_NUM_NODES" ] || (IFS=, && echo "${bad[*]}")
}

# Put the job back into the queue, to avoid the nodes named.
requeue() {
    local job avoid restarts=${SLURM_RESTART_COUNT:-0}
    job=$(scontrol -o show job "$SLURM_JOB_ID")
    if ! grep -q ' JobState=RUNNING ' <<<"$job"; then
        echo "r1mega: Slurm ends this job itself (cancelled, preempted or out of time)"
    elif [ "$restarts" -ge "$R1MEGA_MAX_RESTARTS" ]; then
        echo "r1mega: started again $restarts times, as often as R1MEGA_MAX_RESTARTS lets"
    else
        # Slurm ends this script as it requeues it, and lets nodes be excluded only after that.
        trap '' USR1 TERM
        scontrol requeue "$SLURM_JOB_ID" || return 0 # not wanted any more: Requeue=0
        [ -n "$1" ] || exit 0
        avoid=$(grep -o ' ExcNodeList=[^ ]*' <<<"$job" | cut -d= -f2 | sed 's/^(null)$//')
        scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="${avoid:+$avoid,}$1"
        exit 0
    fi
}
