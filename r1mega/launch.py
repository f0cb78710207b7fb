"""Ranks: join those that torchrun or srun started, or start our own on this machine.

Our own launcher is a few lines because it does one thing: start the same command once a rank, and end
all ranks when one ends badly. It imports no torch, and an interrupted run ends without a traceback.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_S = 5.0
"""How long ranks may take to end after they were told to."""


def ranks_started() -> int | None:
    """How many ranks an outer launcher started; None where it is ours to start them."""
    if "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ:
        _join_srun()
        return int(os.environ["WORLD_SIZE"])
    return None


def _join_srun() -> None:
    """Say srun's ranks in torch's words; a step of one node meets on the loopback address."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    # Any port that the job's tasks agree on and another job on the node does not take.
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000))
    tasks = os.environ["SLURM_STEP_NUM_TASKS"]
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "LOCAL_WORLD_SIZE": os.environ.get("SLURM_STEP_TASKS_PER_NODE", tasks).split("(")[0],
    }


def start_ranks(arguments: Sequence[str], ranks: int, program: Sequence[str] = ("-m", "r1mega")) -> int:
    """Run `python -m r1mega <arguments>` once a rank, to the end of all.

    Args:
        program: what Python runs instead.

    Returns:
        The exit code of the run: 0 where every rank ended well, 130 after Ctrl-C.
    """
    port = os.environ.get("MASTER_PORT") or _free_port()
    processes = [
        subprocess.Popen([sys.executable, *program, *arguments], env=_environment(rank, ranks, port))
        for rank in range(ranks)
    ]
    try:
        return _wait(processes)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        _end(processes)


def _environment(rank: int, ranks: int, port: str) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "R1MEGA_LAUNCHED": str(os.getpid()),
    }


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            # A rank that lost its peers fails too; the first to fail knows why.
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
