#!/usr/bin/env bash
# One stage of a pipeline as a Slurm job; `slurm/r1_pipeline.sh` submits one a stage.
#
# What:  the run that its arguments describe, one task a rank; a run that is done already ends at once.
# Where: the size (nodes, tasks, GPUs a node) is given by who submits, from the run's own layout.
# How long and what it costs: two-core runs take minutes. Nothing larger was measured: give
#        SBATCH_TIMELIMIT; a stage that is cut off saves and goes back into the queue (docs/slurm.md).
#
# By hand: sbatch --nodes=1 --ntasks=2 slurm/r1_stage.sh run=cpu_zero
#SBATCH --job-name=r1-stage
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
. "${R1MEGA_HOME:-$SLURM_SUBMIT_DIR}/slurm/env.sh"

run_and_requeue "$@"
