"""Runs a function on several gloo ranks, each a fresh process.

Fresh, because Megatron on CPU patches torch for the life of a process. Starting one costs some seconds,
so a test module starts its ranks once and asks them for everything; the layouts that they take in turn
are opened by `layout`.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def run_ranks(
    ranks: int,
    function: Callable[..., Any],
    *arguments: Any,
    timeout_s: float = 480,
    dying: Collection[int] = (),
) -> list[Any]:
    """What `function(*arguments)`, a module's own, returns on each rank.

    Args:
        dying: ranks that are to be killed in the course of it; their result is None.

    Raises:
        AssertionError: a rank failed or did not end in time; with what every rank printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "call").write_bytes(pickle.dumps((function, arguments)))
        processes = [_start(folder, rank, ranks) for rank in range(ranks)]
        try:
            _wait(processes, dying, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                _kill_group(process)
        faults = [
            f"rank {rank} ended with {process.returncode}"
            for rank, process in enumerate(processes)
            if process.returncode != _wanted(rank, dying)
        ]
        if faults:
            raise AssertionError("\n".join([*faults, *_printed(folder, ranks)]))
        return [None if rank in dying else _result(folder, rank) for rank in range(ranks)]


def _wanted(rank: int, dying: Collection[int]) -> int:
    return -signal.SIGKILL if rank in dying else 0


def _start(folder: Path, rank: int, ranks: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        # The function's module is found as it was here.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with (folder / f"printed.{rank}").open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "support.rank", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(processes: list[subprocess.Popen[bytes]], dying: Collection[int], deadline: float) -> None:
    """Until all have ended, or one has failed, or the time is up."""
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return
        if any(code not in (None, _wanted(rank, dying)) for rank, code in enumerate(codes)):
            # What the others print on losing a peer may help too.
            time.sleep(2)
            return
        time.sleep(0.05)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _printed(folder: Path, ranks: int) -> Iterator[str]:
    for rank in range(ranks):
        text = (folder / f"printed.{rank}").read_text(errors="replace")
        yield f"--- rank {rank} printed:\n{text[-6000:]}"


def _result(folder: Path, rank: int) -> Any:
    return pickle.loads((folder / f"result.{rank}").read_bytes())


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, each another.

    Not of those that the system hands out by itself: a layout's is opened late, when the sockets of the
    layouts before it may have been given it.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def plan_of(**degrees: Any) -> Any:
    """The plan of these degrees; those not given are 1, etp and dp what follows from the others."""
    from r1mega.parallel.plan import make_plan

    defaults = {"tp": 1, "pp": 1, "vpp": 1, "ep": 1, "cp": 1, "etp": None, "dp": None}
    plan, faults = make_plan(**(defaults | degrees), ranks=None)
    assert plan is not None, faults
    return plan


@contextmanager
def layout(port: int, **degrees: Any) -> Iterator[Any]:
    """On every rank: Megatron's groups of these degrees, closed again after; see `open_layout`."""
    from r1mega.parallel.groups import close_groups

    yield open_layout(port, **degrees)
    close_groups()


def open_layout(port: int, **degrees: Any) -> Any:
    """Open Megatron's groups of these degrees, on every rank; returns the plan.

    Args:
        port: one that no layout has used before, the same on every rank.
    """
    from r1mega.parallel.groups import open_groups

    os.environ["MASTER_PORT"] = str(port)
    plan = plan_of(**degrees)
    assert plan.world_size == int(os.environ["WORLD_SIZE"])
    open_groups(plan, gpu=False, seed=0, timeout_s=120)
    return plan
