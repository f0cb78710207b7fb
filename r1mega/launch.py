"""Ranks: join those that torchrun or srun started, or start our own on this machine.

Our own launcher is a few lines because it does one thing: start the same command once a rank, pass on to
all that they are to save and stop, and end all when one ends badly, since the others would wait for it for
ever. It imports no torch, and an interrupted run ends without a traceback.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from r1mega.stopping import SAVED

Ranks = Sequence[subprocess.Popen[bytes]]

BAD_INPUT = 2
"""Exit code of a rank that found fault with its input, and has said so."""
RUN = ("-m", "r1mega")
"""What Python runs as a rank of a run."""
GRACE_S = 10.0
"""How long the others may take to end after one has saved and stopped."""
LAST_WORDS_S = 5.0
"""The same after one has failed: they may have failed alike, and be about to say why."""


def ranks_started() -> int | None:
    """How many ranks an outer launcher started; None where it is ours to start them."""
    if "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ:
        _join_srun()
        return int(os.environ["WORLD_SIZE"])
    return None


def _join_srun() -> None:
    """Say srun's ranks in torch's words; without slurm/env.sh, ranks meet on the loopback address."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    # Any port that the job's tasks agree on and another job on the node does not take; the kernel gives
    # connections those from 32,768 on.
    os.environ.setdefault("MASTER_PORT", str(20_000 + 2 * (int(os.environ["SLURM_JOB_ID"]) % 6_000)))
    tasks = os.environ["SLURM_STEP_NUM_TASKS"]
    # Nodes of a Slurm that is rehearsed on one machine are that machine.
    alone = os.environ.get("R1MEGA_MACHINES") == "1"
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "LOCAL_WORLD_SIZE": tasks if alone else str(_tasks_here(os.environ)),
    }


def _tasks_here(environment: Mapping[str, str]) -> int:
    """The step's tasks on this node, of a list such as `2(x3),1`: three nodes have two, the next one."""
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE", environment["SLURM_STEP_NUM_TASKS"])
    counts: list[int] = []
    for part in listed.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or "1")
    return counts[int(environment.get("SLURM_NODEID", "0"))]


def start_ranks(arguments: Sequence[str], ranks: int, program: Sequence[str] = RUN) -> int:
    """Run `python -m r1mega <arguments>` once a rank, to the end of all.

    SIGTERM and SIGUSR1 reach the ranks as SIGUSR1: save and stop.

    Args:
        program: what Python runs instead.

    Returns:
        The exit code of the run: 0 where every rank ended well, 75 where one saved and stopped, 130 after
        Ctrl-C, else that of the rank that ended badly: 128 + the signal that killed it, or its own.
    """
    port = os.environ.get("MASTER_PORT") or _free_port()
    processes: list[subprocess.Popen[bytes]] = []
    with _signals() as told:
        try:
            for rank in range(ranks):
                command = [sys.executable, *program, *arguments]
                environment = _environment(rank, ranks, port)
                processes.append(subprocess.Popen(command, env=environment, preexec_fn=_ignore_interrupts))
            code, line = _wait(processes, told)
        except KeyboardInterrupt:
            code, line = 130, "\nStopped."
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if line:
        told_fresh = any(one.startswith("fresh=true") for one in arguments)
        same = "the same command without fresh=true" if told_fresh else "the same command"
        again = f"; {same} goes on from the last saved state" if program == RUN and code != 130 else ""
        print(f"{line}{again}", file=sys.stderr)
    return code


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole group, and a rank before its first line; the launcher says who ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that come meanwhile and tell the run to save and stop."""
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def mark(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if callable(earlier := before[signal.Signals(number)]):
            earlier(number, frame)  # a pipeline's, which then starts no further stage

    for number in before:
        signal.signal(number, mark)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """A port on which nothing listens, and which the kernel gives to nobody before rank 0 opens it."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


def _wait(processes: Ranks, told: Sequence[int]) -> tuple[int, str]:
    """Until all have ended, or one has ended badly and the others had their time.

    Returns:
        The run's exit code, and what is to be said of it.
    """
    passed_on = 0
    while True:
        if passed_on < len(told):
            passed_on = len(told)
            for process in processes:
                process.send_signal(signal.SIGUSR1)  # does nothing to one that has ended
        ended = {rank: code for rank, process in enumerate(processes) if (code := process.poll()) is not None}
        # One that had not got so far as to listen has nothing new to save.
        saved = [rank for rank, code in ended.items() if code == SAVED or (told and code == -signal.SIGUSR1)]
        failed = {rank: code for rank, code in ended.items() if code and rank not in saved}
        # A rank that was killed takes others with it, and one that saved and stopped does too: they may
        # fail within the moment between two looks.
        killed = [rank for rank, code in failed.items() if code < 0]
        if killed or (failed and not saved):
            return _after_failure(processes, killed[0] if killed else next(iter(failed)))
        if saved:
            return _after_saving(processes)
        if len(ended) == len(processes):
            return 0, ""
        time.sleep(0.05)


def _after_failure(processes: Ranks, rank: int) -> tuple[int, str]:
    code = processes[rank].returncode
    who = f"error: rank {rank} (pid {processes[rank].pid})"
    if code < 0:
        return 128 - code, f"{who} was killed by {signal.Signals(-code).name}"
    _let_end(processes, LAST_WORDS_S)
    return code, f"{who} ended with exit code {code}" if code != BAD_INPUT else ""


def _after_saving(processes: Ranks) -> tuple[int, str]:
    late = _let_end(processes, GRACE_S)
    if not late and all(process.returncode != SAVED for process in processes):
        return SAVED, "Stopped before the ranks had begun"
    who = ", ".join(f"rank {rank} (pid {processes[rank].pid})" for rank in late)
    return SAVED, f"{who} did not end within {GRACE_S:.0f} s of the others and was killed" if late else ""


def _let_end(processes: Ranks, within_s: float) -> list[int]:
    """Give all so much time; returns the ranks that have not ended."""
    deadline = time.monotonic() + within_s
    while late := [rank for rank, process in enumerate(processes) if process.poll() is None]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return late
