#!/usr/bin/env bash
# SFT, one task a GPU: sbatch slurm/r1_sft.sh [run=r1_cold_start] [sft.epochs=3 ...], from the checkout.
#
# What:  the cold start at the paper's size, or run=r1_rejection_sft, or run=r1_distill_*.
# Where: 256 nodes of 8 H100 (docs/configurations.md lists all runs); distillation is laid out for 64 GPUs:
#          sbatch --nodes=8 slurm/r1_sft.sh run=r1_distill_qwen2_5_7b
# How long and what it costs: not measured on GPU. The paper counts SFT in the 41,000 H800 GPU-hours of R1.
# Signals: five minutes before its time is over the job saves and goes back into the queue, at most
#        R1MEGA_MAX_RESTARTS times (docs/slurm.md).
#SBATCH --job-name=r1-sft
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

[[ " $* " == *" run="* ]] || set -- run=r1_cold_start "$@"
run_and_requeue "$@"
