#!/usr/bin/env bash
# One stage of a pipeline as a Slurm job; `r1mega run=cpu_r1 pipeline.submit=true` submits one a stage.
#
# What:  the run that its arguments describe, one task a rank; a run that is done already ends at once.
# Where: the size (nodes, tasks, GPUs a node) is given by who submits, from the run's own layout.
# How long and what it costs: two-core runs take minutes. Nothing larger was measured: give
#        SBATCH_TIMELIMIT; a stage that is cut off starts over when it is submitted again.
#
# By hand: sbatch --nodes=1 --ntasks=2 slurm/r1_stage.sh run=cpu_zero
#SBATCH --job-name=r1-stage
#SBATCH --time=1-00:00:00
#SBATCH --no-requeue
#SBATCH --open-mode=append

set -euo pipefail

# Ranks meet at the first node, at the address that Slurm itself knows it by: names need not resolve.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
export MASTER_ADDR

# srun does not take this from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# A rank that dies takes the others with it, and srun's exit code is the job's.
exec srun --kill-on-bad-exit=1 "${R1MEGA_PYTHON:-python}" -m r1mega "$@"
