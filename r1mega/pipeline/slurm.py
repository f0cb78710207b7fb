"""A pipeline as Slurm jobs: one a stage, each held back until those that it reads of ended well.

A stage that is open may be submitted for nothing: its job finds it done and ends at once. Where a job
fails, those that wait for it are cancelled. Partition, account and time limit are given as Slurm takes
them from anyone: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1mega.config import Backend, BadRun, Config
from r1mega.pipeline.graph import Node
from r1mega.pipeline.standing import Standing

GPUS_PER_NODE = 8


def submit(config: Config, nodes: Sequence[Node], standings: Mapping[str, Standing], script: Path) -> int:
    """Submit every stage that is not done, and print the jobs.

    Raises:
        BadRun: Slurm is not there, or refused a job; those submitted before it are named.
    """
    jobs: dict[str, str] = {}
    for node in nodes:
        if standings[node.name].runs is False:
            print(f"{node.name}: done before")
            continue
        waits = [jobs[name] for name in sorted(node.after) if name in jobs]
        jobs[node.name] = _sbatch(config, node, waits, script, jobs)
        after = f" after {', '.join(waits)}" if waits else ""
        print(f"{node.name}: job {jobs[node.name]}{after}; {standings[node.name].why}", flush=True)
    print(
        f"Logs: {config.folder}/slurm-*.log. When all have ended, the same command without pipeline.submit"
        f" writes {config.folder / 'summary.json'}."
    )
    return 0


def _sbatch(config: Config, node: Node, waits: Sequence[str], script: Path, jobs: Mapping[str, str]) -> str:
    # `singleton`: a stage submitted twice runs once; the second job finds it done.
    dependency = ",".join([*(f"afterok:{job}" for job in waits), "singleton"])
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={config.name}-{node.name}",
        f"--dependency={dependency}",
        "--kill-on-invalid-dep=yes",
        f"--output={config.folder}/slurm-{node.name}-%j.log",
        *_size(node),
        str(script),
        *node.arguments,
    ]
    # The job's checkout and Python are those that submit.
    environment = os.environ | {"R1MEGA_HOME": str(script.parents[1]), "R1MEGA_PYTHON": sys.executable}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise BadRun(["pipeline.submit: was true; there is no sbatch here"]) from None
    except subprocess.CalledProcessError as error:
        submitted = f"; submitted before it: {', '.join(jobs.values())}" if jobs else ""
        raise BadRun([f"{node.name}: sbatch refused it: {error.stderr.strip()}{submitted}"]) from None
    return done.stdout.strip().split(";")[0]


def _size(node: Node) -> list[str]:
    """What the job asks for: on a CPU one node, through whose memory weights reach the engines."""
    if node.config.cluster.backend is Backend.cpu:
        threads = node.config.cluster.threads_per_rank
        return ["--nodes=1", f"--ntasks={node.ranks}", f"--cpus-per-task={threads}"]
    here = min(node.ranks, GPUS_PER_NODE)
    return [f"--nodes={-(-node.ranks // here)}", f"--ntasks-per-node={here}", f"--gpus-per-node={here}"]
