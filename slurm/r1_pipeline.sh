#!/usr/bin/env bash
# A whole recipe as Slurm jobs, one a stage: slurm/r1_pipeline.sh [run=cpu_r1] [seed=1 ...]
#
# What:  submits each stage that is not done with slurm/r1_stage.sh, held back until those that it reads
#        of ended well; where one fails, those after it are cancelled (docs/pipeline.md). It is no job
#        itself: run it where sbatch is. Again: it submits what is left.
# Where: each stage's own layout says; SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_TIMELIMIT as for anyone.
# How long and what it costs: run=cpu_r1 about 40 minutes on two cores. Not measured on GPU.

set -euo pipefail
R1MEGA_HOME=${R1MEGA_HOME:-$(cd "$(dirname "$0")/.." && pwd)}

[[ " $* " == *" run="* ]] || set -- run=cpu_r1 "$@"
exec "${R1MEGA_PYTHON:-$R1MEGA_HOME/.venv/bin/python}" -m r1mega "$@" pipeline.submit=true
