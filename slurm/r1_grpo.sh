#!/usr/bin/env bash
# GRPO, one task a GPU: sbatch slurm/r1_grpo.sh [run=r1_zero] [grpo.rollouts=10 ...], from the checkout.
#
# What:  R1-Zero on DeepSeek-V3, whose engines this version plans and cannot start (docs/configurations.md), or
#        any other run; the same command again goes on where it stopped.
# Where: 256 nodes of 8 H100. Other runs take others, docs/configurations.md lists how many:
#          sbatch --nodes=2 slurm/r1_grpo.sh run=zero_qwen2_5_7b
#          sbatch --nodes=4 slurm/r1_grpo.sh run=zero_qwen3_30b_a3b
#          sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 slurm/r1_grpo.sh run=cpu_zero
# How long and what it costs: not measured on GPU. The paper gives 198 hours of 512 H800 for R1-Zero,
#        101,000 GPU-hours, and 80 hours, 41,000 GPU-hours, for all of R1.
# Signals: five minutes before its time is over the job saves and goes back into the queue, at most
#        R1MEGA_MAX_RESTARTS times (docs/slurm.md).
#SBATCH --job-name=r1-grpo
#SBATCH --nodes=256
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log

set -euo pipefail
. "${R1MEGA_HOME:-$SLURM_SUBMIT_DIR}/slurm/env.sh"

[[ " $* " == *" run="* ]] || set -- run=r1_zero "$@"
run_and_requeue "$@"
